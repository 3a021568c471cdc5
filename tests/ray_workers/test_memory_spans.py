"""Live tensors that share memory: found, and restored to what each of them was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from ray_workers.memory_spans import sharing_memory
from ray_workers.restoring import RankRestore, ShardCache, restore_state
from ray_workers.store.memory import MemoryStore
from ray_workers.training_state import TrainingParts, restore
from tests.ray_workers.test_training_state import save

FEW, MANY = 1, 500_000  # 4 bytes, and 2 MB: above what is better read whole


def test_tensors_share_memory_when_one_begins_within_another():
    flat, alone = torch.zeros(6), torch.zeros(2)
    tensors = {
        "tail": flat[4:], "head": flat[:3], "alone": alone, "all": flat.view(2, 3), "none": alone[:0],
    }  # fmt: skip
    assert sharing_memory(tensors) == [["tail", "head", "all"]]
    del tensors["all"]
    assert sharing_memory(tensors) == []
    columns = torch.zeros(3, 2)
    assert sharing_memory({"left": columns[:, 0], "right": columns[:, 1]}) == [["left", "right"]]
    assert sharing_memory({"array": torch.from_numpy(flat.numpy()[1:]), "all": flat}) == [
        ["array", "all"]
    ]


class Moments:
    """Two tensors that are one in a fresh object."""

    def __init__(self, items: int) -> None:
        self.mean = self.var = torch.zeros(items)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "var": self.var}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.mean, self.var = state_dict["mean"], state_dict["var"]


class Shadow:
    """An average whose tensors are the model's own until the first update."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.shadow = {name: p.detach() for name, p in model.named_parameters()}

    def update(self) -> None:
        self.shadow = {name: tensor + 1 for name, tensor in self.shadow.items()}

    def state_dict(self) -> dict[str, Any]:
        return self.shadow

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.shadow = dict(state_dict)


def in_place(parts, version):
    """As a session does."""
    store = MemoryStore()
    for key, data in version.shards.items():
        store.put(key, data)
    rank = RankRestore(rank=0, world_size=1, manifest=version.manifest)
    restore_state(parts, version.manifest, ShardCache(store), rank)


def verified_first(parts, version):
    restore(parts, version.manifest, version.read)


WAYS = pytest.mark.parametrize("bring_back", [in_place, verified_first])


@WAYS
@pytest.mark.parametrize("items", [FEW, MANY])
def test_two_tensors_of_an_object_that_are_one_in_a_fresh_one_come_back_as_two(bring_back, items):
    def parts(moments):
        return TrainingParts(model=torch.nn.Linear(1, 1), extra={"moments": moments})

    saved, fresh = Moments(items), Moments(items)
    saved.mean, saved.var = torch.full((items,), 1.0), torch.full((items,), 2.0)
    bring_back(parts(fresh), save(parts(saved)))
    assert torch.equal(fresh.mean, saved.mean)
    assert torch.equal(fresh.var, saved.var)


@WAYS
@pytest.mark.parametrize("items", [FEW, MANY])
def test_an_average_that_is_still_the_models_own_memory_comes_back_beside_it(bring_back, items):
    def training(value):
        model = torch.nn.Linear(items, 1)
        torch.nn.init.constant_(model.weight, value)
        return model, Shadow(model)

    (model, shadow), (fresh, fresh_shadow) = training(1.0), training(0.0)
    shadow.update()
    version = save(TrainingParts(model=model, extra={"shadow": shadow}))
    bring_back(TrainingParts(model=fresh, extra={"shadow": fresh_shadow}), version)
    assert torch.equal(fresh.weight, model.weight)
    assert torch.equal(fresh_shadow.shadow["weight"], model.weight + 1)


class Pair(torch.nn.Module):
    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.full((MANY,), 1.0))
        self.second = self.first if tied else torch.nn.Parameter(torch.full((MANY,), 2.0))


@WAYS
def test_weights_that_were_saved_apart_and_are_tied_now_are_no_damage(bring_back):
    version = save(TrainingParts(model=Pair(tied=False)))
    fresh = Pair(tied=True)
    before = fresh.first._version
    bring_back(TrainingParts(model=fresh), version)
    assert torch.equal(fresh.first, Pair(tied=False).second), "the last one stands"
    assert fresh.first is fresh.second
    assert fresh.first._version > before


@WAYS
def test_an_average_of_a_model_with_tied_weights_comes_back(bring_back):
    def training():
        model = Pair(tied=True)
        return model, AveragedModel(model)

    (model, average), (fresh, fresh_average) = training(), training()
    with torch.no_grad():
        model.first.add_(3)
    average.update_parameters(model)
    version = save(TrainingParts(model=model, extra={"average": average}))
    bring_back(TrainingParts(model=fresh, extra={"average": fresh_average}), version)
    assert torch.equal(fresh.first, model.first)
    assert torch.equal(fresh_average.module.second, average.module.second)
