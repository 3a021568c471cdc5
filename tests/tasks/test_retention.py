"""Retention as a flow applies it: while training goes on and at its end, told first, and never at training's cost."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ray_workers.config import Retention
from ray_workers.messages import PawlEvent
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import StoreUnavailableError
from ray_workers.store.memory import MemoryStore
from tasks import retention
from tasks.attempt import Attempt
from tasks.retention import apply_retention, retention_while_training
from tests.support.factories import MadeUpRun

VERDICT = PawlEvent(kind="verdict", message="Version 1 (step 10) is sound", at="")


class Scene:
    """A run of five sound versions that still trains, whose attempt keeps the newest two."""

    def __init__(self) -> None:
        self.run = MadeUpRun(store=MemoryStore())
        self.run.start()
        self.commit(5)
        self.now_s = 0.0
        self.opened = 0
        self.rules = Retention(keep_last=2)

    def commit(self, count: int) -> None:
        first = len(self.run.log.state.versions) + 1
        for number in range(first, first + count):
            self.run.commit(10 * number)
        self.run.judge(*range(first, first + count))

    def open(self) -> SimpleNamespace:
        self.opened += 1
        return SimpleNamespace(store=self.run.store)

    @property
    def attempt(self) -> Attempt:
        request = SimpleNamespace(
            target=SimpleNamespace(open=self.open), run=self.run.log.state.run, retention=self.rules
        )
        return cast("Attempt", SimpleNamespace(request=request, by={}, finished=None))

    @property
    def live(self) -> set[int]:
        found = read_run(self.run.store, self.run.log.state.run).versions
        return {number for number, version in found.items() if version.status == "live"}


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(retention, "get_run_logger", lambda: logging.getLogger("flow"))
    return Scene()


def hearing(scene: Scene) -> Any:
    return retention_while_training(scene.attempt, clock=lambda: scene.now_s)


def test_a_verdict_while_training_goes_on_retires_what_no_rule_keeps(scene, caplog):
    caplog.set_level(logging.INFO, "flow")
    hear = hearing(scene)
    hear(VERDICT)
    assert scene.live == {4, 5}
    assert "retire version 1: no rule keeps it" in caplog.text
    assert "keep version" not in caplog.text  # once a minute, for months


def test_it_is_looked_at_once_a_minute_at_most(scene):
    hear = hearing(scene)
    hear(VERDICT)
    scene.run.log.refresh()
    scene.commit(2)
    hear(VERDICT)
    assert scene.live == {4, 5, 6, 7}
    scene.now_s = 60.0
    hear(VERDICT)
    assert scene.live == {6, 7}
    assert scene.opened == 2


def test_other_events_and_no_rules_read_nothing(scene):
    hearing(scene)(PawlEvent(kind="committed", message="", at=""))
    scene.rules = Retention()
    hearing(scene)(VERDICT)
    assert scene.opened == 0


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_store_that_is_away_costs_training_nothing(scene, caplog, monkeypatch, at_the_end):
    def away() -> None:
        raise StoreUnavailableError("the store does not answer")

    monkeypatch.setattr(scene, "open", away)
    if at_the_end:
        said = "Nothing was retired: the store does not answer"
        assert apply_retention.fn(scene.attempt) == (said,)
    else:
        hearing(scene)(VERDICT)
    assert "Nothing was retired: the store does not answer" in caplog.text


def test_at_the_end_the_whole_plan_is_told(scene):
    lines = apply_retention.fn(scene.attempt)
    told = {line.split(":")[0] for line in lines[:-1]}
    assert told == {
        *(f"keep version {n}" for n in (4, 5)),
        *(f"retire version {n}" for n in (1, 2, 3)),
    }
    assert lines[-1].startswith("3 versions, ")
    assert scene.live == {4, 5}
