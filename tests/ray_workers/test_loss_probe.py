"""The loss probe and the user's own checks: on a real small training, and what each of them catches that nothing else does."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ray_workers import environment
from ray_workers.loss_probe import PROBE_METRIC, measure
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store.attempts import this_process
from ray_workers.store.log import RunLog
from ray_workers.store.versions import UNREADABLE
from ray_workers.validation import record_verdicts, validate
from ray_workers.validator_actor import Validator
from tests.support.small_training import (
    Killed,
    final_digests,
    patient_process,
    silently_changed,
    small_loop,
)

PROBE = "tests.support.small_training:probe"


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module of checks that can be imported; returns its name."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(text: str) -> str:
        (folder / "own_checks.py").write_text(text)
        sys.modules.pop("own_checks", None)
        importlib.invalidate_caches()
        return "own_checks"

    yield write
    sys.modules.pop("own_checks", None)


def judged(run, number, **policy):
    store = run.target.open().store
    log = RunLog(store, run.run, by=this_process())
    version = log.state.versions[number]
    return validate(store, version, state=log.state, policy=SoundnessPolicy(**policy))[-1]


def judge_all(run, **policy):
    """As beside training: each version when it comes. The last verdict's result."""
    store = run.target.open().store
    log = RunLog(store, run.run, by=this_process())
    result = None
    for number in sorted(log.state.versions):
        version = log.state.versions[number]
        results = validate(store, version, state=log.state, policy=SoundnessPolicy(**policy))
        record_verdicts(log, version, results, checker="test")
        result = results[-1]
    return result, log.state


def test_measuring_disturbs_neither_modes_nor_random_state():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    model[2].eval()
    before = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()

    def probe():
        torch.rand(3), np.random.rand(3), random.random()  # noqa: S311
        assert not torch.is_grad_enabled()
        assert not model.training
        return model(torch.ones(4, 2)).sum()

    assert measure(model, probe) == measure(model, probe)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state(legacy=False)) == str(before[1])
    assert random.getstate() == before[2]
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_a_probe_that_raises_leaves_the_modes_as_they_were():
    model = nn.Linear(1, 1)
    with pytest.raises(ZeroDivisionError):
        measure(model, lambda: 1 / 0)
    assert model.training


def test_the_loss_from_the_stored_bytes_is_the_one_that_was_saved_and_training_does_not_notice(
    tmp_path,
):
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    run, plain = patient_process(tmp_path / "with"), patient_process(tmp_path / "without")
    run.attempt(small_loop(probed=True))
    plain.attempt(small_loop())
    assert final_digests(run) == final_digests(plain)
    assert PROBE_METRIC in run.newest_manifest().metrics
    assert PROBE_METRIC not in plain.newest_manifest().metrics
    result = judged(run, 3, probe=PROBE)
    assert result.passed
    assert result.evidence["probe_saved"] == result.evidence["probe_read"]
    assert {"seconds", "bytes", "probe_seconds"} <= result.evidence.keys()
    # A version without a probe's loss is judged by the rest.
    assert judged(plain, 3, probe=PROBE).passed
    assert "probe_read" not in judged(plain, 3, probe=PROBE).evidence


def test_a_silent_change_of_weights_is_caught_by_the_probe_alone(tmp_path, monkeypatch):
    run = patient_process(tmp_path)
    silently_changed(monkeypatch, at_step=6)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=9, probed=True))
    assert judged(run, 3).passed
    assert judged(run, 2, probe=PROBE).passed
    result = judged(run, 3, probe=PROBE)
    assert (result.check, result.passed) == ("sound", False)
    assert "what is stored is not what was trained" in str(result.reason)
    assert judged(run, 3, probe=PROBE, probe_tolerance=0.5).passed


@pytest.mark.parametrize(
    ("name", "here", "verdict"),
    [
        ("device", "NVIDIA H200", True),
        ("torch", "1.0", True),
        (
            "threads",
            "99",
            False,
        ),  # their sums differ in the last digits, which the tolerance covers
    ],
)
def test_another_loss_on_another_device_is_evidence_and_no_verdict(
    tmp_path, monkeypatch, name, here, verdict
):
    run = patient_process(tmp_path)
    silently_changed(monkeypatch, at_step=6)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=9, probed=True))
    usual = environment.describe_environment()
    monkeypatch.setattr(environment, "describe_environment", lambda: {**usual, name: here})
    result = judged(run, 3, probe=PROBE)
    assert (result.check, result.passed) == ("sound", verdict)
    assert result.evidence["probe_saved"] != result.evidence["probe_read"]
    told = f"{name} {usual[name]} → {here}" if verdict else None
    assert result.evidence.get("probe_elsewhere") == told
    assert (
        "probe_elsewhere" not in judged(run, 2, probe=PROBE).evidence
    )  # the same loss all the same


def test_a_probe_that_is_not_finite_is_not_sound(tmp_path):
    def spoil(model):
        model[3].bias.data += 1e30

    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=9, spoil_at=6, spoil=spoil, probed=True))
    result = judged(run, 3, probe=PROBE, max_norm_ratio=1e40)
    assert not result.passed
    assert "inf when it was saved" in str(result.reason)


def test_a_probe_for_another_model_judges_nothing(tmp_path, checks):
    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=5, probed=True))
    module = checks(
        "from torch import nn\n"
        "def other(config):\n    model = nn.Linear(3, 3)\n    return model, lambda: 0.0\n"
        "def nothing(config):\n    return None\n"
    )
    for name, word in (("other", "does not fit"), ("nothing", "must return"), ("absent", "absent")):
        result = judged(run, 2, probe=f"{module}:{name}")
        assert (result.check, result.passed) == (UNREADABLE, False)
        assert word in str(result.reason)


# --- drift -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "word"), [(2.5, "z-score"), (1.05, None)])
def test_planted_drift_is_caught_although_it_is_below_the_jump_guard(tmp_path, factor, word):
    def spoil(model):
        for parameter in model.parameters():
            parameter.data *= factor

    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=23, spoil_at=22, spoil=spoil), {"epochs": 6})
    result, state = judge_all(run)
    assert [v.rung for v in state.versions.values()][:-1] == ["sound"] * 10
    assert result.passed is (word is None)
    assert word is None or word in str(result.reason)
    assert {"norm_z", "update_z", "update_rate"} <= result.evidence.keys()


def test_the_rate_of_updates_is_remembered_from_the_verdicts(tmp_path):
    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=9))
    _, state = judge_all(run)
    assert state.versions[1].update_rate is None
    assert state.versions[2].update_rate > 0
    evidence = judged(run, 3).evidence
    assert evidence["update_rate"] == pytest.approx(evidence["update_norm"] / 2)


# --- the user's own checks -------------------------------------------------------------------------------------------

OWN = """
from ray_workers.store.errors import DigestMismatchError, VersionNotFoundError

def fine(version):
    assert version.config == {"epochs": 6}
    assert version.step == 4
    assert set(version.model_state()) >= {"0.weight", "1.running_mean"}

def too_high(version):
    weight = version.tensor("shared/model/0.weight")
    return f"step {version.step}, loss {version.metrics['loss'] >= 0}, {tuple(weight.shape)}"

def broken(version):
    raise RuntimeError("planted")

def odd(version):
    return 3

def other(version):
    raise DigestMismatchError("runs/other/shards/1 is damaged", key="runs/other/shards/1")

def lost(version):
    raise VersionNotFoundError("no version 'production'")

def own(version):
    raise DigestMismatchError("damaged", key=version.manifest.shards[0].key)
"""


def test_own_checks_judge_and_one_that_raises_judges_nothing(tmp_path, checks):
    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=5), {"epochs": 6})
    module = checks(OWN)
    assert judged(run, 2, checks=(f"{module}:fine",)).passed
    failed = judged(run, 2, checks=(f"{module}:fine", f"{module}:too_high"))
    assert (failed.check, failed.passed) == ("sound", False)
    assert failed.reason == f"{module}:too_high: step 4, loss True, (6, 4)"
    assert set(failed.evidence["checks"]) == {f"{module}:fine", f"{module}:too_high"}
    for name, word in (
        ("broken", "RuntimeError: planted"),
        ("odd", "returned 3"),
        ("other", f"{module}:other: runs/other/shards/1 is damaged"),
        ("lost", "no version 'production'"),
    ):
        result = judged(run, 2, checks=(f"{module}:{name}",))
        assert result.check == UNREADABLE
        assert word in str(result.reason)
    # Of the version's own bytes it is believed.
    assert judged(run, 2, checks=(f"{module}:own",)).check == "bytes"


def test_a_version_that_cannot_be_judged_is_tried_once_and_the_others_go_on(tmp_path, checks):
    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=5), {"epochs": 6})
    module = checks(
        "def third(version):\n    if version.step == 4:\n        raise ValueError('no')\n"
    )
    validator = Validator(run.target, run.run, SoundnessPolicy(checks=(f"{module}:third",)))
    judged_first = validator.validate_next()
    assert judged_first is not None
    assert (judged_first.number, judged_first.rung) == (2, "verified")
    assert "ValueError: no" in str(judged_first.problem)
    judged_next = validator.validate_next()
    assert judged_next is not None
    assert (judged_next.number, judged_next.rung, judged_next.problem) == (1, "sound", None)
    assert validator.validate_next() is None


def test_what_could_not_be_judged_is_looked_at_again_when_a_later_version_could_be(
    tmp_path, checks
):
    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=5), {"epochs": 6})
    reason = tmp_path / "away"
    reason.touch()
    module = checks(
        "from pathlib import Path\n"
        f"def data_there(version):\n    assert version.step > 4 or not Path({str(reason)!r}).exists()\n"
    )
    validator = Validator(run.target, run.run, SoundnessPolicy(checks=(f"{module}:data_there",)))

    def until_none_waits() -> list[tuple[int, str]]:
        found = []
        while (one := validator.validate_next()) is not None:
            found.append((one.number, one.rung))
        return found

    assert until_none_waits() == [(2, "verified"), (1, "verified")]
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=7), {"epochs": 6})
    assert until_none_waits() == [(3, "sound"), (1, "verified")]  # the resume judged version 2
    reason.unlink()
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=9), {"epochs": 6})
    assert until_none_waits() == [(4, "sound"), (1, "sound")]


def test_what_can_never_be_judged_does_not_cost_its_reading_for_ever(tmp_path, checks):
    run = patient_process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=17), {"epochs": 6})
    module = checks("def even(version):\n    assert version.step > 2\n")
    validator = Validator(run.target, run.run, SoundnessPolicy(checks=(f"{module}:even",)))
    log = RunLog(run.target.open().store, run.run, by=this_process())
    seen = []
    for newest in sorted(log.state.versions):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "ray_workers.validator_actor._waits",
                lambda v, n=newest: v.number <= n and v.rung in ("committed", "verified"),
            )
            while (one := validator.validate_next()) is not None:
                seen.append(one.number)
    assert seen == [1, 2, 1, 3, 1, 4, 5, 6, 7, 8]
