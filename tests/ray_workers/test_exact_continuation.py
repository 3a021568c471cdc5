"""Interrupted at any step of any epoch, a training with everything in it ends in the same bits, loss series included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.shard_reading import read_tensors
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.shards import read_shard
from tests.support.rich_training import OVERFLOW_AT, STEPS, rich_loop
from tests.support.small_training import Killed, patient_process

WORKERS = 2
"""Loader processes where they are used; starting them is what takes time."""


def process(folder: Path):
    folder.mkdir(exist_ok=True)
    run = patient_process(folder)
    run.thresholds = SaveThresholds(every_steps=1)
    return run


def ended(run):
    """Every bit of the last version (parameters, optimizers, random state, series …), and its series by name."""
    manifest = run.newest_manifest()
    assert (manifest.progress.finished, manifest.progress.step) == (True, STEPS)
    store = run.target.open().store
    tensors = read_tensors(manifest, lambda entry: read_shard(store, entry), prefix="rank/0/series")
    series = {path: tensor.numpy() for path, tensor in tensors.items()}
    return [shard.digest for shard in manifest.shards], series


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = process(tmp_path_factory.mktemp("whole"))
    run.attempt(rich_loop())
    return ended(run)


def test_the_training_uses_what_it_claims_to(whole):
    _, series = whole
    values = {path.split("/")[3]: series[path] for path in series if path.endswith("/values")}
    assert values.keys() == {"loss", "scale", "lr", "average"}
    assert len(set(values["loss"][:STEPS].tolist())) == STEPS  # padded behind
    scale = values["scale"].tolist()
    assert scale[OVERFLOW_AT[1] - 1] == scale[OVERFLOW_AT[0] - 2] / 4, "the scaler never backed off"
    assert max(scale[i + 1] / scale[i] for i in range(STEPS - 1)) == 2, "the scaler never grew"
    assert len(set(values["lr"].tolist())) > 1, "the plateau was never met"
    for path, steps in series.items():
        if path.endswith("/steps"):
            assert [step for step in steps.tolist() if step] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_interrupted_at_any_step_it_ends_the_same(tmp_path, whole, step):
    run = process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(rich_loop(die_at=step))
    again = run.attempt(rich_loop())
    assert (again.point.step if again.point else 0) == step - 1
    _same(ended(run), whole)


@pytest.mark.parametrize("steps", [(3, 6, 9), (2, 5, 7), (5, 6, 7)], ids=str)
def test_interrupted_again_and_again_with_loader_processes_it_ends_the_same(tmp_path, whole, steps):
    run = process(tmp_path)
    for step in steps:
        with pytest.raises(Killed):
            run.attempt(rich_loop(die_at=step, loader_workers=WORKERS))
    run.attempt(rich_loop(loader_workers=WORKERS))
    _same(ended(run), whole)


@pytest.mark.parametrize("forgotten", ["scaler", "average", "plateau"])
def test_what_is_not_handed_over_is_missed(tmp_path, whole, forgotten):
    """The comparison sees each part: without one of them the training goes another way."""
    run = process(tmp_path)
    with pytest.raises(Killed):
        run.attempt(rich_loop(die_at=8, forget=forgotten))
    run.attempt(rich_loop(forget=forgotten))
    _, series = ended(run)
    differs = [p for p, values in series.items() if not np.array_equal(values, whole[1][p])]
    assert differs


def test_what_has_no_state_is_refused_at_the_start(tmp_path):
    import torch  # noqa: PLC0415 - here alone

    from ray_workers.training_state import TrainingParts  # noqa: PLC0415 - here alone

    model = torch.nn.Linear(1, 1)
    with pytest.raises(InvalidInputError, match="extra 'ema' is a dict, which has no state_dict"):
        TrainingParts(model=model, extra={"ema": {}})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match="scheduler '1' is a function"):
        TrainingParts(model=model, scheduler=[torch.amp.GradScaler("cpu"), lambda: None])  # type: ignore[list-item]


def _same(found, expected):
    for path, values in expected[1].items():
        assert np.array_equal(found[1][path], values), path
    assert found[0] == expected[0]
