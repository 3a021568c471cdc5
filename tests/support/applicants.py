"""Flow runs that want to start, for tests of who may."""

from __future__ import annotations

from typing import Any

from ray_workers.opening_attempt import Applicant, open_attempt
from ray_workers.resume import ResumeSpec
from ray_workers.store.attempts import this_process
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState

__all__ = ["ELSEWHERE", "open_as"]

ELSEWHERE = {"host": "another-host", "pid": 1, "boot": "b", "started": 1}
"""A writer of which nobody here can say whether it still runs."""


def open_as(
    store: ObjectStore, flow: str, *, run: str = "run", resume: str = "auto", **knows: Any
) -> tuple[RunState, int]:
    """Open an attempt of `run` as flow run `flow`; the state and the fence."""
    applicant = Applicant(
        flow_run_id=flow,
        run_count=knows.get("count", 1),
        by=knows.get("by") or this_process(),
        takeover=knows.get("takeover", False),
        still_running=lambda _: knows.get("running"),
    )
    log, fence = open_attempt(store, run, ResumeSpec.parse(resume), applicant)
    return log.state, fence
