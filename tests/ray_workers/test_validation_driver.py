"""A validator that is lost costs training nothing, and its verdicts only as long as what took it away lasts."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError

from ray_workers import validation_driver
from ray_workers.messages import PawlEvent
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store.opening import StorageTarget
from ray_workers.validation_driver import ValidationDriver
from ray_workers.validator_actor import Judged

LOST = ActorDiedError()


def sound(number: int) -> Judged:
    return Judged(number=number, step=10 * number, rung="sound", reason=None)


@dataclass
class MadeUpRay:
    """Gives `answers` in turn, an exception is raised; without one left, no call is ever answered."""

    now: float = 1000.0
    answers: list[Judged | Exception | None] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    started: int = 0
    killed: int = 0

    def remote(self, *_: Any) -> SimpleNamespace:
        self.started += 1
        return SimpleNamespace(validate_next=SimpleNamespace(remote=self._ask))

    def _ask(self) -> int:
        self.asked.append(self.now)
        return len(self.asked)

    def wait(self, calls: list[int], timeout: float) -> tuple[list[int], list[int]]:
        assert timeout == 0
        return (calls, []) if self.answers else ([], calls)

    def get(self, call: int) -> Judged | None:
        assert call == len(self.asked)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, _: Any) -> None:
        self.killed += 1


@dataclass
class Driven:
    ray: MadeUpRay
    driver: ValidationDriver
    told: list[PawlEvent]

    def drive_for(self, seconds: float) -> None:
        """As the supervisor does, twice a second."""
        for _ in range(int(2 * seconds)):
            self.driver.drive()
            self.ray.now += 0.5

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> Driven:
    made, told = MadeUpRay(), list[PawlEvent]()
    monkeypatch.setattr(validation_driver, "ray", made)
    monkeypatch.setattr(validation_driver, "ValidatorActor", made)
    driver = ValidationDriver(
        StorageTarget("/nowhere"), "run", SoundnessPolicy(), timeout_s=60, on_event=told.append,
        clock=lambda: made.now,
    )  # fmt: skip
    return Driven(made, driver, told)


def test_each_version_that_waits_is_judged_by_one_process(driven):
    driven.ray.answers = [sound(2), sound(1), None]
    driven.drive_for(5)
    assert driven.kinds == ["verdict", "verdict"]
    assert driven.ray.started == 1
    assert driven.driver.over
    driven.ray.answers = [sound(3), None]
    driven.drive_for(5)
    assert len(driven.told) == 2
    driven.driver.want()
    assert not driven.driver.over
    driven.drive_for(5)
    assert driven.kinds == ["verdict"] * 3


def test_a_store_that_is_away_for_minutes_costs_no_verdict(driven):
    driven.ray.answers = [*[LOST] * 7, sound(1), None]
    driven.drive_for(600)
    assert driven.kinds == ["validator_lost"] * 7 + ["verdict"]
    pauses = [b - a for a, b in zip(driven.ray.asked, driven.ray.asked[1:], strict=False)]
    assert pauses[:7] == [2, 4, 8, 16, 32, 64, 128]
    assert "is tried again in 4 s (2)" in driven.told[1].message
    assert (driven.ray.started, driven.ray.killed) == (8, 7)


def test_the_pause_stops_growing_and_the_tries_do_not_end(driven):
    driven.ray.answers = [LOST] * 40
    driven.drive_for(7200)
    assert 20 < len(driven.ray.asked) < 40
    assert driven.ray.asked[-1] - driven.ray.asked[-2] == 300
    assert driven.ray.now - driven.ray.asked[-1] <= 300


def test_after_a_commit_it_is_tried_again_at_once_but_not_in_a_whirl(driven):
    driven.ray.answers = [LOST] * 8
    driven.drive_for(300)
    before = len(driven.ray.asked)
    driven.ray.answers = [sound(9), None]
    driven.driver.want()
    driven.drive_for(3)
    assert driven.kinds[-1] == "verdict"
    assert driven.ray.asked[before] - driven.ray.asked[before - 1] > 2
    driven.ray.answers = [LOST] * 100
    began = len(driven.ray.asked)
    for _ in range(20):
        driven.driver.want()
        driven.drive_for(1)
    assert len(driven.ray.asked) - began <= 11


def test_a_commit_during_a_call_that_finds_nothing_is_looked_for(driven):
    """The call may have folded the log before the commit: the last version of a run stayed without a verdict."""
    driven.drive_for(1)
    driven.driver.want()
    driven.ray.answers = [None, sound(4), None]
    assert not driven.driver.over
    driven.drive_for(5)
    assert driven.kinds == ["verdict"]
    assert driven.driver.over


def test_an_answer_that_does_not_come_costs_the_process(driven):
    driven.drive_for(61)
    assert driven.kinds == ["validator_lost"]
    assert "no answer for 60 s" in driven.told[0].message
    driven.ray.answers = [sound(1), None]
    driven.drive_for(5)
    assert driven.kinds == ["validator_lost", "verdict"]


def test_at_the_end_a_validator_that_never_comes_is_not_waited_for_for_ever(driven):
    driven.ray.answers = [LOST] * 100
    driven.drive_for(600)
    driven.driver.want()  # the end waits for its verdicts, however often the validator was lost before
    began = driven.ray.now
    assert not driven.driver.over
    while not driven.driver.over:
        driven.drive_for(0.5)
    assert 60 < driven.ray.now - began < 120


@pytest.mark.parametrize("error", [OutOfMemoryError("killed by Ray"), RayError("any other")])
def test_whatever_ray_raises_is_a_lost_validator_and_no_error_of_training(driven, error):
    driven.ray.answers = [error, sound(1), None]
    driven.drive_for(10)
    assert driven.kinds == ["validator_lost", "verdict"]
    assert driven.ray.killed == 1
