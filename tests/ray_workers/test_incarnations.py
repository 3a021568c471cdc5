"""What the checkpoint actor tells is taken once, and by whoever asks next if the answer is late."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    OutOfMemoryError,
    RayTaskError,
)

from ray_workers import incarnations
from ray_workers.incarnations import Incarnations
from ray_workers.messages import PawlEvent
from ray_workers.store.attempts import end_attempt, start_incarnation
from ray_workers.store.errors import OutcomeUnknownError
from ray_workers.store.log import RunLog
from ray_workers.store.opening import StorageTarget
from ray_workers.version_assembly import AttemptIdentity
from tests.support.factories import MadeUpRun
from tests.support.faulty_store import Call, Fault, FaultyStore

EVENT = PawlEvent(kind="committed", message="Version 1", at="2026-11-28T00:00:00+00:00")


@dataclass
class Actor:
    """Asked with `drain_events.remote()`, like Ray's handle; `answers` are given in turn, an exception is raised."""

    answers: list[object]
    calls: list[int] = field(default_factory=list)

    @property
    def drain_events(self) -> SimpleNamespace:
        def remote() -> int:
            self.calls.append(len(self.calls))
            return self.calls[-1]

        return SimpleNamespace(remote=remote)

    def get(self, ref: int, timeout: float) -> object:
        assert ref == self.calls[-1]
        assert timeout > 0
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def told() -> list[PawlEvent]:
    return []


@pytest.fixture
def coordinating(tmp_path, monkeypatch, told):
    """Incarnations with a made-up actor; call it with that one's answers."""
    target = StorageTarget(str(tmp_path / "store"))
    run = MadeUpRun(store=target.open(create=True).store, name="run")
    fence = run.start()
    identity = AttemptIdentity(
        run="run", run_id=str(run.log.state.run_id), fence=fence, parent=None, config={}, by={}
    )

    def made(*answers: object, over=lambda: False) -> tuple[Incarnations, Actor]:
        actor = Actor(list(answers))
        monkeypatch.setattr(ray, "get", actor.get)
        one: Any = Incarnations(target, identity, 3, told.append, over=over)
        one.actor = actor
        return one, actor

    return made


def test_a_late_answer_is_waited_for_and_not_asked_for_again(coordinating) -> None:
    one, actor = coordinating(GetTimeoutError("busy"), GetTimeoutError("busy"), ([EVENT], None))
    assert one.drain(0.1) == ()
    assert one.drain(0.1) == ()
    assert one.drain(0.1) == [EVENT]
    assert len(actor.calls) == 1


def test_each_answer_is_taken_once(coordinating) -> None:
    one, actor = coordinating(([EVENT], None), ([], "budget_spent"))
    assert one.drain(0.1) == [EVENT]
    assert one.drain(0.1) == []
    assert one.stop == "budget_spent"
    assert len(actor.calls) == 2


def test_one_that_died_before_it_answered_is_not_waited_for(coordinating) -> None:
    one, actor = coordinating(
        GetTimeoutError("stopped"), ActorDiedError(), ([], None), over=lambda: True
    )
    assert one.drain(0.1) == ()
    assert one.drain(0.1) == ()
    assert one.drain(0.1) == []
    assert len(actor.calls) == 2


@pytest.fixture
def successors(monkeypatch):
    """No actor is started; the fences of those that would have been."""
    fences: list[int] = []
    monkeypatch.setattr(Incarnations, "start", lambda self: fences.append(self.attempt.fence))
    return fences


def test_after_the_attempt_was_left_a_dead_one_gets_no_successor(coordinating, successors) -> None:
    one, _ = coordinating(ActorDiedError(), over=lambda: True)
    before = one.attempt.fence
    assert one.drain(0.1) == ()
    assert successors == []
    assert one._log.refresh().open_fence == one.attempt.fence == before


def test_a_store_that_gives_the_fence_when_the_attempt_was_left_starts_no_successor(
    coordinating, successors, told, monkeypatch
) -> None:
    """Ray was left meanwhile: a new actor would begin a new Ray, on a thread that nobody waits for."""
    left: list[bool] = []
    one, _ = coordinating(ActorDiedError(), over=lambda: bool(left))

    def take(log: RunLog, fence: int, incarnation: int) -> int:
        left.append(True)
        return start_incarnation(log, fence, incarnation)

    monkeypatch.setattr(incarnations, "start_incarnation", take)
    assert one.drain(0.1) == ()
    assert left
    assert (successors, told) == ([], [])
    assert one._log.refresh().open_fence == one.attempt.fence, (
        "who ends the attempt closes this one"
    )


@pytest.mark.parametrize("looks", ["drain", "check_fence"])
def test_its_own_end_is_no_loss_of_the_run(coordinating, told, monkeypatch, looks) -> None:
    """The attempt was left and closed while this still waited for the store."""
    left: list[bool] = []
    one, _ = coordinating(ActorDiedError(), over=lambda: bool(left))
    refresh = RunLog.refresh

    def closed_by_then(log: RunLog):
        if not left:
            left.append(True)
            end_attempt(log, one.attempt.fence, "interrupted", "SIGTERM")
        return refresh(log)

    monkeypatch.setattr(RunLog, "refresh", closed_by_then)
    one._fence_checked -= 1000
    one.drain(0.1) if looks == "drain" else one.check_fence()
    assert left
    assert one.stop is None
    assert told == []


def test_one_that_ray_s_memory_monitor_killed_gets_a_successor(coordinating, successors) -> None:
    one, _ = coordinating(OutOfMemoryError("killed"), ([], None))
    before = one.attempt.fence
    assert one.drain(0.1) == ()
    assert successors == [one.attempt.fence]
    assert one.attempt.fence > before


def test_what_a_living_one_raises_is_told_and_makes_no_successor(coordinating, successors) -> None:
    error = RayTaskError("drain_events", "Traceback", KeyError("bug"), "worker", 7, "ip")
    one, _ = coordinating(error, ActorUnavailableError("cut", None), ([EVENT], None))
    with pytest.raises(RayTaskError):
        one.drain(0.1)
    assert one.drain(0.1) == ()
    assert one.drain(0.1) == [EVENT]
    assert successors == []


@pytest.mark.parametrize("fault", [Fault.LOSE_RESPONSE, Fault.UNAVAILABLE])
def test_a_successor_s_fence_whose_answer_was_lost_is_taken_and_not_lost_to_itself(
    coordinating, successors, fault
) -> None:
    one, _ = coordinating(ActorDiedError(), ActorDiedError())
    store = one._log.store
    plan = {"on": True}

    def away(call: Call) -> Fault | None:
        """From the first try to write on."""
        if not plan["on"] or not any(c.verb == "put_if_absent" for c in faulty.calls):
            return None
        first = sum(c.verb == "put_if_absent" for c in faulty.calls) == 1
        return fault if first and call.verb == "put_if_absent" else Fault.UNAVAILABLE

    faulty = FaultyStore(store, away)
    one._log = RunLog(faulty, "run", by={}, patience_s=0.0, sleep=lambda _: None)
    with pytest.raises(OutcomeUnknownError):
        one.drain(0.1)
    one._fence_checked -= 1000
    plan["on"] = False
    one.check_fence()
    assert one.stop is None
    assert one.drain(0.1) == ()
    assert one.stop is None
    state = one._log.refresh()
    assert successors == [one.attempt.fence] == [state.open_fence]
    assert state.attempts[one.attempt.fence].incarnation == 1
    assert len(state.attempts) == 2
