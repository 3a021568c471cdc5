"""Which Ray job a flow run may follow instead of starting an attempt, told from the run's log alone."""

from __future__ import annotations

import pytest

from ray_workers.adopting import base_fence, job_name, offered_job
from ray_workers.store.attempts import (
    adopt_attempt,
    create_run,
    end_attempt,
    start_attempt,
    start_incarnation,
    start_successor,
)
from ray_workers.store.errors import FenceLostError
from ray_workers.store.log import RunLog
from ray_workers.store.memory import MemoryStore

OLD, NEW = {"host": "old", "pid": 1}, {"host": "new", "pid": 2}


@pytest.fixture
def log() -> RunLog:
    return create_run(MemoryStore(), "run", by=OLD)


def started(log: RunLog, flow: str = "flow", run_count: int = 1) -> int:
    return start_attempt(log, flow_run_id=flow, run_count=run_count)


def offered(log: RunLog, flow: str = "flow", *, dead: bool = False):
    return offered_job(log.refresh(), flow, lambda _: dead)


def test_a_retry_is_offered_the_job_of_the_try_before(log: RunLog) -> None:
    fence = started(log)
    offer = offered(log)
    assert offer is not None
    assert (offer.name, offer.fence) == (job_name(str(log.state.run_id), fence), fence)
    assert not offer.ended


def test_the_job_keeps_its_name_when_its_checkpoint_actor_was_restarted(log: RunLog) -> None:
    fence = started(log)
    second = start_incarnation(log, fence, 1)
    third = start_incarnation(log, second, 2)
    offer = offered(log)
    assert offer is not None
    assert (offer.name, offer.fence) == (job_name(str(log.state.run_id), fence), third)
    assert base_fence(log.state, third) == fence


def test_an_adopted_attempt_belongs_to_its_new_owner_with_all_that_follows(log: RunLog) -> None:
    fence = started(log)
    other = RunLog(log._store, "run", by=NEW)
    adopt_attempt(other, fence, flow_run_id="flow", run_count=2)
    attempt = log.refresh().attempts[fence]
    assert (attempt.run_count, attempt.by) == (2, NEW)
    # the job's own supervisor knows nothing of it, and still may restart its checkpoint actor
    second = start_incarnation(log, fence, 1)
    assert log.state.attempts[second].run_count == 2
    assert log.state.attempts[second].by == NEW  # who lives, and not the process that began
    assert log.state.open_fence == second
    # nor does it when another number of workers goes on
    end_attempt(log, second, "resized")
    third, _ = start_successor(log, second)
    assert (log.state.attempts[third].run_count, log.state.attempts[third].by) == (2, NEW)


def test_an_attempt_that_lost_its_fence_restarts_nothing(log: RunLog) -> None:
    fence = started(log)
    taken = started(log, "other")
    with pytest.raises(FenceLostError):
        start_incarnation(log, fence, 1)
    with pytest.raises(FenceLostError):
        adopt_attempt(log, fence, flow_run_id="flow", run_count=2)
    assert log.refresh().open_fence == taken


@pytest.mark.parametrize(("outcome", "ended"), [("completed", True), ("failed", None)])
def test_what_ended_meanwhile(log: RunLog, outcome, ended) -> None:
    end_attempt(log, started(log), outcome)
    offer = offered(log)
    assert (offer and offer.ended) == ended


def test_another_flow_runs_job_only_if_it_is_dead(log: RunLog) -> None:
    fence = started(log)
    assert offered(log, "second") is None
    offer = offered(log, "second", dead=True)
    assert offer is not None
    assert offer.fence == fence
    end_attempt(log, fence, "completed")
    assert offered(log, "second", dead=True) is None


def test_a_run_without_attempts_offers_nothing(log: RunLog) -> None:
    assert offered(log) is None


def test_an_incarnation_that_is_asked_for_again_has_the_fence_that_it_took(log: RunLog) -> None:
    fence = started(log)
    taken = start_incarnation(log, fence, 1)
    assert start_incarnation(log, fence, 1) == taken
    assert len(log.refresh().attempts) == 2
    with pytest.raises(FenceLostError):
        start_incarnation(log, fence, 2)


def test_an_adopted_incarnation_is_still_its_driver_s(log: RunLog) -> None:
    fence = started(log)
    taken = start_incarnation(log, fence, 1)
    adopt_attempt(RunLog(log._store, "run", by=NEW), taken, flow_run_id="flow", run_count=2)
    assert start_incarnation(log, fence, 1) == taken


def test_nobody_else_s_fence_is_taken_for_one_s_own(log: RunLog) -> None:
    fence = started(log)
    started(log, "other")
    with pytest.raises(FenceLostError, match="other"):
        start_incarnation(log, fence, 1)
    theirs = log.refresh().open_fence
    assert theirs is not None
    start_incarnation(log, theirs, 1)
    with pytest.raises(FenceLostError, match="other"):
        start_incarnation(log, fence, 1)


def test_an_incarnation_that_was_ended_is_not_taken_up_again(log: RunLog) -> None:
    fence = started(log)
    end_attempt(log, start_incarnation(log, fence, 1), "failed")
    with pytest.raises(FenceLostError):
        start_incarnation(log, fence, 1)
