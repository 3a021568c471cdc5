"""A loop that is asked to end saves the step it is at, if there is time, and the next attempt goes on bit-identical."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_workers.deciding import Decider
from ray_workers.environment import changes, describe_environment
from ray_workers.messages import StagedShard, StopRequest, VersionOutcome
from ray_workers.pipeline import InProcessPipeline, PendingSave
from ray_workers.policies.agreement import AgreementPace
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.rank_content import RankContent
from ray_workers.saver import Saver
from ray_workers.store.catalog import version_rows
from ray_workers.store.errors import AttemptInterruptedError, FenceLostError
from ray_workers.store.manifest import Progress
from ray_workers.store.manifest_parts import INTERRUPTED
from ray_workers.store.opening import StorageTarget
from tests.support.in_process import Loop, OneProcess
from tests.support.small_training import final_digests, patient_process, small_loop


class Asked:
    """Lets the pipeline ask for the end from step `at` on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, request: StopRequest) -> None:
        self.at, self.request, self.steps = at, request, 0
        monkeypatch.setattr(InProcessPipeline, "stop_request", lambda _: self._answer())
        monkeypatch.setattr(AgreementPace, "steps_between", lambda *_: 1)

    def _answer(self) -> StopRequest | None:
        self.steps += 1
        return self.request if self.steps >= self.at else None


def interrupted(grace_s: float) -> StopRequest:
    return StopRequest(reason="interrupted", cause="SIGTERM", grace_s=grace_s)


def rare_saves(folder: Path, name: str = "run") -> OneProcess:
    (folder / "staging").mkdir(exist_ok=True)
    return OneProcess(
        target=StorageTarget(str(folder / "store")),
        run=name,
        staging=folder / "staging",
        thresholds=SaveThresholds(every_steps=1000),
    )


def end_early(run: OneProcess, loop: Loop) -> AttemptInterruptedError:
    with pytest.raises(AttemptInterruptedError) as ended:
        run.attempt(loop)
    return ended.value


def test_the_step_it_is_at_becomes_a_marked_version_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = patient_process(tmp_path, "whole")
    whole.attempt(small_loop())
    run = rare_saves(tmp_path)
    with monkeypatch.context() as patch:
        Asked(patch, 2, interrupted(60.0))
        error = end_early(run, small_loop())
    (row,) = version_rows(run.target.open().store, "run")
    assert row.version.step == 2
    assert row.facts is not None
    assert (row.facts.interrupted, row.to_json()["interrupted"]) == ("SIGTERM", "SIGTERM")
    assert error.details == {"step": row.version.step, "committed_step": row.version.step}
    assert run.attempt(small_loop()).resumed.step == row.version.step
    assert final_digests(run) == final_digests(whole)
    assert INTERRUPTED not in run.newest_manifest().environment


def test_without_time_nothing_new_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rare_saves(tmp_path)
    Asked(monkeypatch, 2, interrupted(0.0))
    error = end_early(run, small_loop())
    assert error.details["committed_step"] == -1
    assert version_rows(run.target.open().store, "run") == ()


def test_when_a_full_save_does_not_fit_the_one_in_flight_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is slow: the first save took 2 s, the second is on its way, and 3 s are left."""
    run = rare_saves(tmp_path)
    run.thresholds = SaveThresholds(every_steps=1)
    asked = Asked(monkeypatch, 10**9, interrupted(3.0))
    submitted: list[int] = []
    submit = InProcessPipeline.submit

    def slow(self: InProcessPipeline, staged: StagedShard) -> PendingSave:
        submitted.append(staged.progress.step)
        pending = submit(self, staged)
        if len(submitted) == 2:
            asked.at = 0  # a signal arrives while the second save is in flight
        return pending

    monkeypatch.setattr(InProcessPipeline, "submit", slow)
    monkeypatch.setattr("ray_workers.checkpoint_manager.time", _Clock(2.0))
    error = end_early(run, small_loop())
    steps = [row.version.step for row in version_rows(run.target.open().store, "run")]
    assert steps == submitted
    assert len(submitted) == 2
    assert error.details["committed_step"] == submitted[1]


def test_a_last_save_that_is_too_slow_is_tried_and_ends_with_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save never ends, nor does another one begin: the loop is left in time, and says what is kept."""
    run = rare_saves(tmp_path)
    Asked(monkeypatch, 2, interrupted(1.5))
    waits: list[float] = []

    class Never:
        def poll(self) -> None:
            return None

        def wait(self, timeout_s: float) -> None:
            waits.append(timeout_s)
            time.sleep(timeout_s)

    monkeypatch.setattr(InProcessPipeline, "submit", lambda *_: Never())
    monkeypatch.setattr(Decider, "hear", _slow_once(Decider.hear))
    monkeypatch.setattr(Saver, "stage", _half_a_second(Saver.stage))
    begun = time.monotonic()
    error = end_early(run, small_loop())
    assert error.details["committed_step"] == -1
    assert len(waits) == 1  # it was tried
    assert waits[0] <= 0.5  # what the copy took is gone
    assert time.monotonic() - begun < 30


def _half_a_second(stage: Callable[..., None]) -> Callable[..., None]:
    def staged(self: Saver, content: RankContent, progress: Progress) -> None:
        time.sleep(0.5)
        stage(self, content, progress)

    return staged


def _slow_once(hear: Callable[..., None]) -> Callable[..., None]:
    """As if a save of 13 s had been measured."""

    def heard(self: Decider, outcomes: Sequence[VersionOutcome]) -> None:
        measured = VersionOutcome(step=0, number=None, persist_s=13.0)
        hear(self, [*outcomes, measured])

    return heard


class _Clock:
    """Every look at it is so many seconds after the last one."""

    def __init__(self, tick: float) -> None:
        self._now, self._tick = 0.0, tick

    def monotonic(self) -> float:
        self._now += self._tick
        return self._now


def test_any_other_reason_ends_without_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rare_saves(tmp_path)
    Asked(monkeypatch, 2, StopRequest(reason="fence_lost"))
    with pytest.raises(FenceLostError):
        run.attempt(small_loop())
    assert version_rows(run.target.open().store, "run") == ()


def test_the_mark_is_no_change_of_the_environment() -> None:
    here: dict[str, Any] = {**describe_environment(), INTERRUPTED: "Ctrl-C"}
    assert changes(here) == {}
    assert changes({**here, "torch": "0.1"}).keys() == {"torch"}


def test_each_hop_counts_the_grace_down_and_never_below_nothing() -> None:
    asked = interrupted(5.0)
    assert asked.after(2.0) == interrupted(3.0)
    assert asked.after(9.0).grace_s == 0.0
