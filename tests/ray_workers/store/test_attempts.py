"""Whether a writer still runs, as far as this host can tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_workers.store.attempts import process_is_gone, process_lives_here, this_process

OTHER_NAMESPACE = {"pid_namespace": "pid:[1]"}


def writer(**other: Any) -> dict[str, Any]:
    return {**this_process(), **other}


def recorded_before() -> dict[str, Any]:
    """As programs wrote it that did not record the namespace."""
    by = writer()
    by.pop("pid_namespace")
    return by


@pytest.mark.parametrize(
    ("by", "gone", "alive"),
    [
        (writer(), False, True),
        (recorded_before(), False, True),
        (writer(pid=2**22 + 1), True, False),
        (writer(started=1), True, False),  # the pid is somebody else's by now
        (writer(boot="another"), True, False),
        (writer(host="another-host"), False, False),
        (writer(pid=2**22 + 1, **OTHER_NAMESPACE), False, False),  # in a container beside this one
        (writer(**OTHER_NAMESPACE), False, False),  # the pid of one of ours, and not its process
        (writer(boot="another", **OTHER_NAMESPACE), True, False),
        ({**recorded_before(), "pid": 2**22 + 1}, True, False),
        ({"host": this_process()["host"]}, False, False),
        ({}, False, False),
    ],
)
def test_gone_and_alive_are_said_of_what_can_be_seen_alone(by, gone, alive) -> None:
    assert (process_is_gone(by), process_lives_here(by)) == (gone, alive)


def test_a_writer_says_in_which_namespace_its_pid_counts() -> None:
    assert this_process()["pid_namespace"] == str(Path("/proc/self/ns/pid").readlink())


def test_a_process_that_ended_is_seen_to_be_gone() -> None:
    code = "import json; from ray_workers.store.attempts import this_process; print(json.dumps(this_process()))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    by = json.loads(process.stdout)
    assert process_is_gone(by)
    assert not process_lives_here(by)
