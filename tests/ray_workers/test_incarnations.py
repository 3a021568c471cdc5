"""What the checkpoint actor tells is taken once, and by whoever asks next if the answer is late."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError

from ray_workers.incarnations import Incarnations
from ray_workers.messages import PawlEvent
from ray_workers.store.opening import StorageTarget
from ray_workers.version_assembly import AttemptIdentity
from tests.support.factories import MadeUpRun

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
def coordinating(tmp_path, monkeypatch):
    """Incarnations with a made-up actor; call it with that one's answers."""
    target = StorageTarget(str(tmp_path / "store"))
    run = MadeUpRun(store=target.open(create=True).store, name="run")
    fence = run.start()
    identity = AttemptIdentity(
        run="run", run_id=str(run.log.state.run_id), fence=fence, parent=None, config={}, by={}
    )

    def made(*answers: object) -> tuple[Incarnations, Actor]:
        actor = Actor(list(answers))
        monkeypatch.setattr(ray, "get", actor.get)
        one: Any = Incarnations(target, identity, 3, lambda _: None)
        one.actor = actor
        return one, actor

    return made


def test_a_late_answer_is_waited_for_and_not_asked_for_again(coordinating) -> None:
    one, actor = coordinating(GetTimeoutError("busy"), GetTimeoutError("busy"), ([EVENT], None))
    assert one.drain(0.1, replace_dead=True) == ()
    assert one.drain(0.1, replace_dead=True) == ()
    assert one.drain(0.1, replace_dead=True) == [EVENT]
    assert len(actor.calls) == 1


def test_each_answer_is_taken_once(coordinating) -> None:
    one, actor = coordinating(([EVENT], None), ([], "budget_spent"))
    assert one.drain(0.1, replace_dead=True) == [EVENT]
    assert one.drain(0.1, replace_dead=True) == []
    assert one.stop == "budget_spent"
    assert len(actor.calls) == 2


def test_one_that_died_before_it_answered_is_not_waited_for(coordinating) -> None:
    one, actor = coordinating(GetTimeoutError("stopped"), ActorDiedError(), ([], None))
    assert one.drain(0.1, replace_dead=False) == ()
    assert one.drain(0.1, replace_dead=False) == ()
    assert one.drain(0.1, replace_dead=False) == []
    assert len(actor.calls) == 2
