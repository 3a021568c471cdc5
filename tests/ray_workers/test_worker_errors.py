"""Which of several ranks is to blame, and what it said below the wrappers."""

from __future__ import annotations

import pytest
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from ray_workers.worker_errors import causes_of, culprit, last_line


class ActorDiedError(Exception):
    """By its name, like Ray's."""


GONE = ActorDiedError("The actor died.")
GROUP = RuntimeError("[gloo/tcp.cc:1] Connection closed by peer")
OWN = ValueError("shapes")


@pytest.mark.parametrize(
    ("causes", "rank"),
    [
        ({0: GROUP, 1: GONE}, 1),
        ({0: GROUP, 1: OWN}, 1),
        ({0: OWN, 1: GONE}, 1),
        ({0: GROUP, 1: GROUP}, 0),
        ({0: OWN, 1: OWN}, 0),
        ({3: GROUP}, 3),
    ],
)
def test_the_one_that_the_others_fell_with(causes, rank):
    assert culprit(causes) == (rank, causes[rank])


def test_the_wrappers_come_off():
    wrapped = Exception("outer")
    wrapped.cause = OWN  # type: ignore[attr-defined]
    group = Exception("group")
    group.worker_failures = {1: wrapped, 0: GROUP}  # type: ignore[attr-defined]
    assert list(causes_of(group).items()) == [(0, GROUP), (1, OWN)]
    unseen = WorkerHealthCheckFailedError("A worker health check failed.", GONE)
    assert causes_of(WorkerGroupError("lost", {2: unseen})) == {2: GONE}
    assert causes_of(Exception("none")) == {}
    assert last_line(RuntimeError("Traceback\n  x\nValueError: y\n\n")) == "ValueError: y"
    assert last_line(RuntimeError()) == "RuntimeError"
