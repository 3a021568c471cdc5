import copy
import json
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load as load_dcp
from torch.distributed.fsdp import fully_shard

from ray_workers.exporting import ABOUT_FILE, export_version
from ray_workers.loading import StoredVersion, load, load_into, model_state, open_version
from ray_workers.state_tree import split
from ray_workers.store.errors import (
    DigestMismatchError,
    InvalidInputError,
    StateMismatchError,
    VersionGoneError,
    VersionNotFoundError,
)
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import VersionState
from ray_workers.training_state import TrainingParts, capture
from tests.support.factories import MadeUpRun, flip_byte, folder_store
from tests.support.rank_pool import RankPool
from tests.support.small_training import patient_process, small_loop
from tests.support.versions import RankPart, make_version, write_rank


def build():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was really trained; its URL and the model as it was at the end."""
    folder = tmp_path_factory.mktemp("trained")
    seen = []
    process = patient_process(folder)
    process.attempt(small_loop(spoil_at=15, spoil=lambda model: seen.append(copy.deepcopy(model))))
    return str(folder / "store"), seen[0]


def same(found, model):
    wanted = model.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_three_lines_give_the_trained_model_back(trained):
    url, model = trained
    fresh = build()
    stored = load_into(fresh, "run@latest", storage=url)
    same(fresh.state_dict(), model)
    assert stored.manifest.progress.finished


def test_weights_are_loaded_by_name_and_only_some_if_asked(trained, monkeypatch):
    url, model = trained
    monkeypatch.setenv("PAWL_STORAGE", url)
    same(load("run@latest"), model)
    told = []
    some = load("run@latest", names="3.*", tell=lambda done, total: told.append((done, total)))
    assert set(some) == {"3.weight", "3.bias"}
    assert told[-1][0] == told[-1][1] > 0
    with pytest.raises(StateMismatchError, match="encoder"):
        load("run@latest", names="encoder.*")


@pytest.mark.parametrize(("mode", "pick"), [("min", min), ("max", max)])
def test_the_best_one_is_by_the_metric_that_was_asked_for(trained, mode, pick):
    url, _ = trained
    last = open_version("run@latest", url).version.number
    losses = {n: open_version(f"run@{n}", url).manifest.metrics["loss"] for n in range(1, last + 1)}
    wanted = open_version(f"run@{pick(losses, key=losses.__getitem__)}", url)
    fresh = build()
    best = open_version("run@best", url, metric="loss", mode=mode)
    assert load_into(fresh, best).reference == wanted.reference
    same(load(best), fresh)
    with pytest.raises(VersionNotFoundError):
        open_version("run@best", url, metric="accuracy")


def test_a_new_head_keeps_its_weights_and_what_does_not_fit_changes_nothing(trained):
    url, model = trained
    wider = build()
    wider[3] = nn.Linear(6, 5)
    before = copy.deepcopy(wider.state_dict())
    with pytest.raises(StateMismatchError):
        load_into(wider, "run@latest", storage=url)
    assert all(torch.equal(before[name], value) for name, value in wider.state_dict().items())
    load_into(wider, "run@latest", storage=url, names="[01].*")
    assert torch.equal(wider[0].weight, model[0].weight)
    assert torch.equal(wider.state_dict()["3.weight"], before["3.weight"])
    with pytest.raises(StateMismatchError, match="shared/model/head"):
        load_into(nn.ModuleDict({"head": nn.Linear(1, 1)}), "run@latest", storage=url)
    with pytest.raises(StateMismatchError, match="no parameter"):
        load_into(wider, "run@latest", storage=url, names="nothing")


@pytest.mark.parametrize("kind", ["safetensors", "hf"])
def test_safetensors_need_no_pawl(trained, tmp_path, kind):
    url, model = trained
    done = export_version(open_version("run@latest", url), tmp_path / "out", kind)
    assert done.files == ("model.safetensors", ABOUT_FILE)
    same(safetensors.torch.load_file(tmp_path / "out" / "model.safetensors"), model)
    about = json.loads((tmp_path / "out" / ABOUT_FILE).read_text())
    assert (about["run"], about["step"], about["rung"]) == ("run", 15, "committed")


def test_a_large_model_is_split_as_hugging_face_does(trained, tmp_path):
    url, model = trained
    folder = tmp_path / "out"
    export_version(open_version("run@latest", url), folder, "hf", largest_file=100)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    parts = {file: safetensors.torch.load_file(folder / file) for file in files}
    assert {name: file for file, part in parts.items() for name in part} == index["weight_map"]
    same({name: value for part in parts.values() for name, value in part.items()}, model)
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in model.state_dict().values())


def test_torch_format_is_what_torch_writes(trained, tmp_path):
    url, model = trained
    export_version(open_version("run@latest", url), tmp_path / "out", "torch")
    read = getattr(torch, "load")  # noqa: B009 - a user reads it so; Pawl never does
    same(read(tmp_path / "out" / "model.pt", weights_only=True), model)


def test_dcp_format_is_read_by_dcp(trained, tmp_path):
    url, model = trained
    export_version(open_version("run@latest", url), tmp_path / "out", "dcp")
    found = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match="single process"):
        load_dcp(found, checkpoint_id=str(tmp_path / "out"), no_dist=True)
    same(found, model)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "dcp", "hf"])
def test_names_choose_what_is_exported(trained, tmp_path, kind):
    url, _ = trained
    done = export_version(open_version("run@latest", url), tmp_path / kind, kind, names="0.*")
    assert json.loads((tmp_path / kind / ABOUT_FILE).read_text())["names"] == "0.*"
    assert done.bytes > 0


def test_a_folder_with_something_in_it_is_left_alone(trained, tmp_path):
    url, _ = trained
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InvalidInputError, match="is not empty"):
        export_version(open_version("run@latest", url), tmp_path, "safetensors")
    with pytest.raises(InvalidInputError, match="as safetensors, torch, hf or dcp, not as files"):
        export_version(open_version("run@latest", url), tmp_path / "out", "files")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_damage_is_found_and_leaves_no_half_export(tmp_path):
    run = MadeUpRun(store=folder_store(tmp_path / "store"), name="run")
    run.start()
    run.commit(10)
    stored = open_version("run@1", str(tmp_path / "store"))
    (tmp_path / "out").mkdir()
    flip_byte(tmp_path / "store", run.shard_keys(1)[1])
    with pytest.raises((DigestMismatchError, StateMismatchError)):
        export_version(stored, tmp_path / "out", "safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_what_was_given_up_is_not_opened(tmp_path):
    run = MadeUpRun(store=MemoryStore.named("given-up"), name="run")
    run.start()
    state = VersionState(
        number=1, manifest="a" * 64, fence=2, slot=3, step=1, bytes=1, base=None, at="", status="swept"
    )  # fmt: skip
    run.log.state.versions[1] = state
    with pytest.raises(VersionGoneError, match="swept"):
        _open_with(run, state)


def _open_with(run, state):
    with (
        mock.patch("ray_workers.loading.read_run", return_value=run.log.state),
        mock.patch.object(StorageTarget, "open", return_value=mock.Mock(store=run.store)),
    ):
        return open_version(f"run@{state.number}", "memory://given-up")


def stored_version(*parts: RankPart) -> StoredVersion:
    made = make_version(parts, plain=parts[0].plain)
    store = MemoryStore()
    for key, data in made.shards.items():
        store.put(key, data)
    version = VersionState(
        number=1, manifest=made.manifest.digest, fence=1, slot=3, step=1, bytes=1, base=None, at=""
    )
    return StoredVersion(store=store, run="r", version=version, manifest=made.manifest)


def with_complex_numbers(value):
    model = nn.Linear(2, 2)
    model.phase = nn.Parameter(torch.full((3,), complex(value, -value), dtype=torch.complex128))
    model.register_buffer("single", torch.full((2,), complex(value), dtype=torch.complex64))
    return model


def test_complex_numbers_are_loaded_as_they_were():
    model, fresh = with_complex_numbers(0.1), with_complex_numbers(0.0)
    state = split(capture(TrainingParts(model=model)), prefix="shared")
    stored = stored_version(write_rank(state.tensors, rank=0, plain=state.plain))
    same(model_state(stored), model)
    load_into(fresh, stored, names="phase")
    assert torch.equal(fresh.phase, model.phase)
    load_into(fresh, stored)
    same(fresh.state_dict(), model)


# --- sharded over two ranks ---------------------------------------------------------------------------------------


def _sharded() -> tuple[RankPart, dict[str, list[Any]]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    whole = {name: value.tolist() for name, value in model.state_dict().items()}
    fully_shard(model)
    state = split(capture(TrainingParts(model=model)), prefix="shared")
    rank = torch.distributed.get_rank()
    return write_rank(state.tensors, rank=rank, plain=state.plain), whole


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """An FSDP2 model of two ranks as one version, and its whole weights."""
    pool = RankPool(tmp_path_factory.mktemp("ranks"), 2)
    try:
        (first, whole), (second, _) = pool.run(_sharded)
    finally:
        pool.close()
    return stored_version(first, second), whole


@pytest.mark.parametrize("kind", ["safetensors", "hf"])
def test_a_sharded_version_is_exported_whole(sharded, tmp_path, kind):
    stored, whole = sharded
    assert any(len(layout.chunks) > 1 for layout in stored.manifest.tensors.values())
    export_version(stored, tmp_path / "out", kind)
    found = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert {name: value.tolist() for name, value in found.items()} == whole


def test_a_sharded_version_is_loaded_whole(sharded):
    stored, whole = sharded
    found = model_state(stored)
    assert {name: value.tolist() for name, value in found.items()} == whole
