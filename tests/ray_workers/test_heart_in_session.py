"""A session lets its heart beat at each step, and rest while it waits for the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_workers.context import TrainingContext, current_context
from ray_workers.saver import Saver
from ray_workers.session import CheckpointSession
from tests.support.small_training import STEPS, patient_process, small_loop


class Watched:
    """The small loop, whose context is kept, and what its heart said whenever the session waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.context: TrainingContext | None = None
        self.rested: list[bool] = []
        wait, loop = Saver.wait, small_loop()

        def waits(saver: Saver, timeout_s: float) -> Any:
            assert self.context is not None
            self.rested.append(self.context.heart.pulse(0).resting)
            return wait(saver, timeout_s)

        def kept(config: dict[str, Any]) -> None:
            self.context = current_context()
            loop(config)

        monkeypatch.setattr(Saver, "wait", waits)
        self.loop = kept


def test_each_step_is_heard_and_waiting_for_a_save_is_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    run = patient_process(tmp_path)
    run.wait_for_saves = False
    run.attempt(watched.loop)
    assert watched.context is not None
    pulse = watched.context.heart.pulse(0)
    assert (pulse.step, pulse.between_epochs) == (STEPS, True)
    assert watched.rested
    assert all(watched.rested)


def test_a_loop_that_works_on_after_its_session_rests_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[bool] = []
    loop = small_loop()

    def evaluates_at_the_end(config: dict[str, Any]) -> None:
        loop(config)
        after.append(current_context().heart.pulse(0).resting)

    patient_process(tmp_path).attempt(evaluates_at_the_end)
    assert after == [True]


def test_a_loop_can_say_that_it_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bool] = []
    advance = CheckpointSession.advance

    def evaluates(session: CheckpointSession, **metrics: float) -> None:
        advance(session, **metrics)
        with session.resting():
            said.append(current_context().heart.pulse(0).resting)

    monkeypatch.setattr(CheckpointSession, "advance", evaluates)
    patient_process(tmp_path).attempt(small_loop())
    assert said == [True] * STEPS
