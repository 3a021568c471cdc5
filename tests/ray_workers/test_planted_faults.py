"""Faults planted in a real small training, judged by the real validator: each is caught by the rung that should catch it,
and not by a lower one; what is resumed then ends as if the fault had never been there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_workers.environment import started_as
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store.attempts import read_run
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import load_manifest
from ray_workers.validator_actor import Judged, Validator
from tests.support.factories import flip_byte
from tests.support.in_process import OneProcess
from tests.support.small_training import (
    Killed,
    patient_process,
    silently_changed,
    small_loop,
)

PROBE = "tests.support.small_training:probe"
EPOCHS = {"epochs": 6}
FAULT_AT, DIE_AT = 18, 19
"""The ninth version is the faulty one, and the last before the loop dies: late enough that drift has a history."""
FAULTY = FAULT_AT // 2


def large_weight(model: torch.nn.Module) -> None:
    model[0].weight.data *= 50  # type: ignore[index]


def one_nan(model: torch.nn.Module) -> None:
    model[0].weight.data[1, 2] = float("nan")  # type: ignore[index]


def one_infinite_buffer(model: torch.nn.Module) -> None:
    model[1].running_var[3] = float("inf")  # type: ignore[index]


def drift(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data *= 2.5


@dataclass(frozen=True)
class Fault:
    check: str
    """Of the verdict that catches it."""
    words: str
    spoil: Callable[[torch.nn.Module], None] | None = None
    silently: bool = False
    rotten: bool = False


FAULTS = {
    "a flipped byte": Fault("bytes", "damaged", rotten=True),
    "one NaN among the weights": Fault("sound", "NaN or infinite", one_nan),
    "one infinity in a buffer": Fault("sound", "NaN or infinite", one_infinite_buffer),
    "a jump": Fault("sound", "a factor of", large_weight),
    "drift below the jump guard": Fault("sound", "z-score", drift),
    "weights changed on their way": Fault("sound", "not what was trained", silently=True),
}


def trained(folder: Path, fault: Fault | None, monkeypatch: pytest.MonkeyPatch) -> OneProcess:
    run = patient_process(folder, started_as=started_as("tests:loop", 1, 0))
    spoil = {"spoil_at": FAULT_AT, "spoil": fault.spoil} if fault and fault.spoil else {}
    loop = small_loop(die_at=DIE_AT, probed=True, **spoil)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        if fault is not None and fault.silently:
            silently_changed(patch, at_step=FAULT_AT)
        with pytest.raises(Killed):
            run.attempt(loop, EPOCHS)
    if fault is not None and fault.rotten:
        state = read_run(run.target.open().store, run.run)
        manifest = load_manifest(run.target.open().store, run.run, state.versions[FAULTY])
        flip_byte(Path(run.target.url), manifest.shards[0].key)
    return run


def judged_one_by_one(run: OneProcess, **policy: Any) -> tuple[list[Judged], RunState]:
    """As beside training: each version when it is the newest, by a validator of its own process's making."""
    validator = Validator(run.target, run.run, SoundnessPolicy(**policy))
    # The validator takes the newest first; here the history must be judged before the faulty one is.
    state = read_run(run.target.open().store, run.run)
    found = []
    for number in sorted(state.versions):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "ray_workers.validator_actor._waits",
                lambda v, n=number: v.number == n and v.quarantine is None,
            )
            one = validator.validate_next()
            assert one is not None
            found.append(one)
    return found, read_run(run.target.open().store, run.run)


def ending(run: OneProcess) -> list[str]:
    manifest = run.newest_manifest()
    assert manifest.progress.finished
    return [shard.digest for shard in manifest.shards]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    run = patient_process(tmp_path_factory.mktemp("whole"))
    run.attempt(small_loop(probed=True), EPOCHS)
    return ending(run)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_caught_by_its_rung_and_the_run_ends_as_if_it_had_not_been(
    tmp_path, monkeypatch, expected, name
):
    fault = FAULTS[name]
    run = trained(tmp_path, fault, monkeypatch)
    found, state = judged_one_by_one(run, probe=PROBE)
    assert [one.rung for one in found[:-1]] == ["sound"] * (FAULTY - 1)
    assert found[-1].rung == "quarantined"
    assert fault.words in str(found[-1].reason)
    assert state.versions[FAULTY].bad_bytes is (fault.check == "bytes")
    assert ("verified" in state.versions[FAULTY].passed) is (fault.check != "bytes")
    again = run.attempt(small_loop(probed=True), EPOCHS)
    assert again.resumed.name.number == FAULTY - 1
    (passed_over,) = again.state.attempts[again.fence].passed_over
    assert (passed_over.version.number, fault.words in passed_over.reason) == (FAULTY, True)
    assert ending(run) == expected


def test_without_a_fault_everything_is_sound_and_resumed_from_the_newest(
    tmp_path, monkeypatch, expected
):
    run = trained(tmp_path, None, monkeypatch)
    found, _ = judged_one_by_one(run, probe=PROBE)
    assert {one.rung for one in found} == {"sound"}
    assert run.attempt(small_loop(probed=True), EPOCHS).resumed.name.number == FAULTY
    assert ending(run) == expected


GUARDS: dict[str, dict[str, Any]] = {
    "a jump": {"max_norm_ratio": 1e9, "max_drift": 1e9},
    "drift below the jump guard": {"max_drift": 1e9},
    "weights changed on their way": {"probe": None},
}
"""What catches it, taken away; nothing else does."""


@pytest.mark.parametrize("name", GUARDS)
def test_nothing_else_would_have_caught_it(tmp_path, monkeypatch, name):
    run = trained(tmp_path, FAULTS[name], monkeypatch)
    found, _ = judged_one_by_one(run, **{"probe": PROBE, **GUARDS[name]})
    assert found[-1].rung == "sound", found[-1].reason
