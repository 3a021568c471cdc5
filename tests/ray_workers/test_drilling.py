"""Restore drills on a real small training, the workers being this process; on Ray in tests/integration/test_drill.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ray_workers.drill_cluster import Restore
from ray_workers.drill_worker import NothingIsStored, take_one_step
from ray_workers.drilling import Drill, drill_version
from ray_workers.environment import started_as
from ray_workers.health_facts import look_at_root
from ray_workers.health_values import Objective
from ray_workers.session import CheckpointSession
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.bodies import Verdict
from ray_workers.store.errors import (
    DigestMismatchError,
    InternalError,
    StoreUnavailableError,
    TrainingFailedError,
    VersionGoneError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.records import Record
from ray_workers.store.versions import load_manifest
from ray_workers.validation import CheckResult, record_verdicts
from tests.support.factories import flip_byte
from tests.support.small_training import (
    Killed,
    patient_process,
    silently_changed,
    small_loop,
)


@pytest.fixture
def run(tmp_path):
    """Versions at steps 2, 4, 6, 8, all sound; the loop died in step 10."""
    made = patient_process(tmp_path, started_as=started_as("tests:loop", 1, 0))
    with pytest.raises(Killed):
        made.attempt(small_loop(die_at=10, probed=True))
    judge(made, 1, 2, 3, 4)
    return made


def judge(run, *numbers):
    log = RunLog(run.target.open().store, run.run, by=this_process())
    for number in numbers:
        result = CheckResult(check="sound", passed=True)
        record_verdicts(log, log.state.versions[number], [result], checker="test")


def here(loop):
    """In place of fresh workers: this process."""

    def restore(wanted: Restore):
        assert (wanted.shape.workers, wanted.scaling.workers) == (1, 1)
        return take_one_step(wanted.work, loop, rank=0, world_size=1), 0.25

    return restore


def drill(run, number=2, loop=None, **more):
    one = Drill(target=run.target, run=run.run, version=number, code_dir=Path(), **more)
    return drill_version(one, restore=here(loop or small_loop(probed=True)))


def version(run, number):
    return read_run(run.target.open().store, run.run).versions[number]


def records(run):
    state = read_run(run.target.open().store, run.run)
    slots = LogReader(run.target.open().store, run.run).read_many(range(1, state.slot + 1))
    return [slot.body for slot in slots if isinstance(slot, Record)]


def test_a_drill_takes_one_step_and_writes_one_verdict_and_nothing_else(run):
    store = run.target.open().store
    before, kept = records(run), {info.key for info in store.list("")}
    steps = []
    whole = small_loop(probed=True)

    def counted(config):
        advance = CheckpointSession.advance

        def counting(self, **metrics):
            steps.append(self.step)
            advance(self, **metrics)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CheckpointSession, "advance", counting)
            whole(config)

    outcome = drill(run, 3, counted)
    assert (outcome.passed, outcome.reason, outcome.quarantined) == (True, None, False)
    assert steps == [6]
    (verdict,) = records(run)[len(before) :]
    assert isinstance(verdict, Verdict)
    assert (verdict.check, verdict.passed, verdict.checker) == ("restorable", True, "drill")
    assert [key for key in {i.key for i in store.list("")} - kept if "/log/" not in key] == []
    assert version(run, 3).rung == "restorable"
    phases = ("verify_s", "cluster_s", "start_s", "restore_s", "first_step_s")
    assert verdict.evidence["seconds"] == pytest.approx(
        sum(verdict.evidence[phase] for phase in phases), abs=1e-3
    )
    # The step that was done next when the run was trained, bit for bit.
    assert verdict.evidence["bit_identical"] is True
    assert verdict.evidence["probe_saved"] == verdict.evidence["probe_read"]


def test_every_drill_counts_as_measured_recovery_time(run):
    for _ in range(2):
        drill(run, 3)
    report = look_at_root(run.target.open().store, Objective(), storage=False)
    (found,) = report.runs
    assert len(found.recovery.drills_s) == 2
    assert found.recovery.measured == found.recovery.drills_s
    assert min(found.recovery.drills_s) >= 0.25


def test_a_run_that_goes_on_is_not_disturbed(run):
    state = read_run(run.target.open().store, run.run)
    drill(run)
    now = read_run(run.target.open().store, run.run)
    assert (now.open_fence, list(now.attempts)) == (state.open_fence, list(state.attempts))
    assert list(now.versions) == list(state.versions)


def test_a_finished_version_is_restored_without_a_step(run):
    run.attempt(small_loop(probed=True))
    number = read_run(run.target.open().store, run.run).newest_first()[0].number
    judge(run, number)
    outcome = drill(run, number)
    assert outcome.passed, outcome.reason
    assert outcome.evidence["steps"] == 0
    assert "value" not in outcome.evidence


def test_bytes_that_rotted_are_quarantined(run):
    flip_byte(Path(run.target.url), shard_of(run, 3))
    outcome = drill(run, 3)
    assert (outcome.passed, outcome.quarantined) == (False, True)
    assert version(run, 3).bad_bytes
    with pytest.raises(VersionGoneError, match="quarantined"):
        drill(run, 3)


def shard_of(run, number):
    store = run.target.open().store
    state = read_run(store, run.run)
    return load_manifest(store, run.run, state.versions[number]).shards[0].key


def test_bytes_that_fail_in_the_worker_alone_are_the_machines_fault(run, monkeypatch):
    def broken(*_):
        raise DigestMismatchError("wrong bytes", key="k")

    before = records(run)
    with monkeypatch.context() as patch:
        patch.setattr("ray_workers.coming_back.read_manifest", broken)
        outcome = drill(run, 3)
    assert (outcome.passed, outcome.quarantined) == (False, False)
    assert "that machine's or the network's" in str(outcome.reason)
    assert records(run) == before  # no fallback, no choice, no verdict
    assert version(run, 3).rung == "sound"


def test_bytes_that_rot_between_reading_and_restoring_are_quarantined(run):
    def loop(config):
        flip_byte(Path(run.target.url), shard_of(run, 3))
        small_loop(probed=True)(config)

    outcome = drill(run, 3, loop)
    assert (outcome.passed, outcome.quarantined) == (False, True)
    assert "given up" not in str(outcome.reason)
    assert version(run, 3).bad_bytes


def test_silently_changed_weights_are_found_by_the_loops_own_probe(tmp_path, monkeypatch):
    made = patient_process(tmp_path, started_as=started_as("tests:loop", 1, 0))
    silently_changed(monkeypatch, at_step=6)
    with pytest.raises(Killed):
        made.attempt(small_loop(die_at=10, probed=True))
    judge(made, 2, 3)  # every digest holds, and no probe was named for the validator
    assert drill(made, 2).passed
    outcome = drill(made, 3)
    assert (outcome.passed, outcome.quarantined) == (False, True)
    assert "what is stored is not what was trained" in str(outcome.reason)
    assert version(made, 3).rung == "quarantined"


def test_a_loop_that_does_not_continue_as_before_fails_and_quarantines_nothing(run):
    def other(config):
        """Forgets what the run was trained with."""
        small_loop(probed=True, spoil_at=5)(config)

    def noisy(config):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ray_workers.rng.restore", lambda _: torch.manual_seed(1))
            other(config)

    outcome = drill(run, 2, noisy)
    assert (outcome.passed, outcome.quarantined) == (False, False)
    assert "did not come back, or the machine errs" in str(outcome.reason)
    assert version(run, 2).rung == "sound"


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (lambda _: None, "without a CheckpointSession"),
        (lambda _: CheckpointSession.open(model=torch.nn.Linear(1, 1)), "not"),
    ],
)
def test_a_loop_that_does_not_fit_fails_and_quarantines_nothing(run, loop, words):
    outcome = drill(run, 2, loop)
    assert (outcome.passed, outcome.quarantined) == (False, False)
    assert words in str(outcome.reason)
    assert version(run, 2).rung == "sound"


def test_a_version_without_a_loop_needs_one_named(tmp_path):
    made = patient_process(tmp_path)
    made.attempt(small_loop())
    judge(made, 2)
    assert "--entrypoint" in str(drill(made, 2).reason)
    assert drill(made, 2, entrypoint="mine:loop").passed


def test_what_is_not_sound_yet_is_validated_first(tmp_path):
    def spoil(model):
        model[0].weight.data[0, 0] = float("nan")

    made = patient_process(tmp_path, started_as=started_as("tests:loop", 1, 0))
    with pytest.raises(Killed):
        made.attempt(small_loop(die_at=8, spoil_at=6, spoil=spoil))
    assert version(made, 2).rung == "committed"
    assert drill(made, 2).passed
    assert set(version(made, 2).passed) >= {"verified", "sound", "restorable"}
    outcome = drill(made, 3)
    assert (outcome.passed, outcome.quarantined) == (False, True)
    assert "NaN" in str(outcome.reason)


def test_a_dead_worker_says_nothing_about_the_version_and_an_absent_cluster_even_less(run):
    def dies(_):
        raise TrainingFailedError("rank 1 died")

    def away(_):
        raise StoreUnavailableError("nobody answers")

    one = Drill(target=run.target, run=run.run, version=2, code_dir=Path())
    before = records(run)
    assert drill_version(one, restore=dies).reason == "rank 1 died"
    with pytest.raises(StoreUnavailableError):
        drill_version(one, restore=away)
    assert records(run) == before


def test_a_loop_that_catches_every_exception_is_ended_all_the_same(run):
    def careful(config):
        try:
            small_loop(probed=True)(config)
        except Exception:  # noqa: BLE001 - as users write it
            pytest.fail("the drill's end was caught")

    assert drill(run, 2, careful).passed


def test_a_drill_that_tried_to_save_would_be_told():
    with pytest.raises(InternalError, match="saves nothing"):
        NothingIsStored().allocate(0, count=1, size=8)


def test_a_version_says_how_it_was_started(run):
    said = run.newest_manifest().environment
    assert {name: said[name] for name in started_as("", 0, 0)} == started_as("tests:loop", 1, 0)


def test_the_probe_does_not_disturb_the_step(run):
    with_probe, without = drill(run, 3), drill(run, 3, small_loop())
    assert with_probe.evidence["value"] == without.evidence["value"]
    assert without.evidence["bit_identical"] is True
