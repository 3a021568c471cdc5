"""Where the ranks meet: room for a save is looked for after the agreement, and an open save is waited for while it lives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_workers.context import TrainingContext
from ray_workers.messages import StagedShard, VersionOutcome
from ray_workers.pipeline import InProcessPipeline, PendingSave
from ray_workers.saver import Saver
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import RetryableError
from tests.support.in_process import OneProcess
from tests.support.small_training import STEPS, patient_process, small_loop


class Late:
    """A save whose answer is there only when it was waited for so many times."""

    def __init__(self, inner: PendingSave, waits: int) -> None:
        self.inner, self.waits = inner, waits

    def poll(self) -> VersionOutcome | None:
        return None

    def wait(self, timeout_s: float) -> VersionOutcome | None:
        self.waits -= 1
        return self.inner.wait(timeout_s) if self.waits < 0 else None


def late_saves(patch: pytest.MonkeyPatch, waits: Callable[[int], int]) -> None:
    """What `waits` says of the step: see `Late`."""
    submit = InProcessPipeline.submit

    def submitted(self: InProcessPipeline, staged: StagedShard) -> Any:
        return Late(submit(self, staged), waits(staged.progress.step))

    patch.setattr(InProcessPipeline, "submit", submitted)


def impatient(folder: Path) -> OneProcess:
    run = patient_process(folder)
    run.wait_for_saves = False
    return run


def test_a_last_save_is_waited_for_as_long_as_something_works_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_saves(monkeypatch, lambda step: 3 if step == STEPS else 0)
    run = patient_process(tmp_path)
    assert run.attempt(small_loop()).state.newest_first()[0].step == STEPS


def test_when_nothing_works_on_it_any_more_the_attempt_ends_for_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_saves(monkeypatch, lambda step: 3 if step == STEPS else 0)
    monkeypatch.setattr(InProcessPipeline, "at_work", lambda _: False)
    with pytest.raises(RetryableError, match="did not become a version"):
        patient_process(tmp_path).attempt(small_loop())


def test_an_answer_that_came_during_the_agreement_makes_room_for_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a rank that waits for rank 0: what was open when it arrived is answered when the decision is there."""
    run = patient_process(tmp_path)
    late_saves(monkeypatch, lambda _: 0)
    monkeypatch.setattr("tests.support.in_process.PatientSaver", Saver)
    monkeypatch.setattr("tests.support.in_process.TrainingContext", _one_buffer)
    monkeypatch.setattr(Saver, "in_flight", False)  # what rank 0 knows
    run.attempt(small_loop())
    state = read_run(run.target.open().store, "run")
    assert [v.step for v in reversed(state.newest_first())] == [2, 4, 6, 8, 10, 12, 14, 15]


def _one_buffer(**values: Any) -> Any:
    return TrainingContext(**{**values, "buffers": 1})


def test_a_buffer_that_has_become_too_small_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state grew while a slow store still reads the other one: the version is dropped, and training goes on."""
    monkeypatch.setattr("ray_workers.saver._BUFFER_PATIENCE_S", 0)
    nothing: Any = None
    saver = Saver(nothing, rank=0, world_size=1, buffers=2)
    small: Any = object()
    ring: Any = SimpleNamespace(size=10, idle=False, take=lambda: small)
    saver._ring = ring
    assert saver._free_buffer(10, pinned=False) is small
    assert saver._free_buffer(20, pinned=False) is None
