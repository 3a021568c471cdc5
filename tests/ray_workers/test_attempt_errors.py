"""What Ray Train says at an attempt's end, as an error of ours and as the words of the end record."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, PreemptionError

from ray_workers.attempt_errors import Took, as_ours, recorded_end
from ray_workers.store.errors import AttemptInterruptedError, DamageError, TrainingFailedError

TOOK = Took(noticed_s=None, settled_s=0.0)


def ours(error: Exception) -> Any:
    job: Any = SimpleNamespace(run="r", fence=1)
    supervisor: Any = SimpleNamespace(stop_reason=None, interruption=None, hung=None)
    return as_ours(job, supervisor, error, TOOK)


@pytest.mark.parametrize(
    ("error", "no_workers"),
    [
        (ControllerError(WorkerGroupStartupTimeoutError(num_workers=3)), True),
        (ControllerError(ValueError("a callback of somebody's")), False),
        (RuntimeError("the controller is gone"), False),
    ],
)
def test_workers_that_did_not_come_up_are_told_from_other_failures_without_a_rank(
    error, no_workers
):
    found = ours(error)
    assert isinstance(found, TrainingFailedError)
    assert found.details["no_workers"] is no_workers


def test_a_node_taken_away_before_its_workers_ended_is_one_that_is_lost():
    info: Any = SimpleNamespace(preempted_ranks=[1], preempted_node_ids=["n"], deadline_ms=None)
    gone = PreemptionError.__new__(PreemptionError)
    Exception.__init__(gone, "Training was preempted")
    gone.preemption_info = info
    assert ours(gone).details["no_workers"] is True


@pytest.mark.parametrize(
    ("details", "place"),
    [
        ({"rank": 2, "node": "far"}, {"rank": 2, "node": "node of 2"}),
        ({"rank": 7, "node": "far"}, {"rank": 7, "node": "far"}),
        ({}, {"rank": 0, "node": "node of 0"}),
    ],
)
def test_what_all_ranks_raise_is_placed_where_it_says(details, place):
    """Rank 0 speaks first; the rank at fault may be another, and the cluster may not know its node any more."""
    failures = {
        rank: TrainingFailedError("Version 3 of run 'r' failed", **details) for rank in (0, 1, 2)
    }
    raised: Any = RuntimeError("all of them")
    raised.worker_failures = failures
    job: Any = SimpleNamespace(run="r", fence=1)
    known = {0: "node of 0", 1: "node of 1", 2: "node of 2"}
    supervisor: Any = SimpleNamespace(
        stop_reason=None, interruption=None, hung=None, places=SimpleNamespace(node_of=known.get)
    )
    found = as_ours(job, supervisor, raised, TOOK)
    assert found.details == place


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (AttemptInterruptedError("resize: saved"), ("interrupted", "resize: saved")),
        (TrainingFailedError("x failed", rank=1, node="b"), ("failed", "x failed (rank 1, node b, error TrainingFailedError)")),
        (DamageError("bad bytes"), ("failed", "bad bytes (error DamageError)")),
        (KeyError(), ("failed", "KeyError (error KeyError)")),
    ],
)  # fmt: skip
def test_the_words_of_the_end_record(error, end):
    assert recorded_end(error) == end
