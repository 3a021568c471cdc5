"""What could not be stored, or never come back, is refused when it is handed over."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from ray_workers import storable
from ray_workers.store.errors import InvalidInputError
from ray_workers.training_state import TrainingParts


def with_buffer(mask, *, persistent=True):
    model = torch.nn.Module()
    model.inner = torch.nn.Module()
    model.inner.register_buffer("mask", mask, persistent=persistent)
    return model


def test_an_expanded_buffer_is_refused_with_its_name_and_the_remedy():
    expanded = torch.ones(1, 5).expand(5, 5)
    with pytest.raises(InvalidInputError, match=r"inner\.mask is an expanded .* with \.clone\(\)"):
        TrainingParts(model=with_buffer(expanded))
    for sound in (expanded.clone(), torch.ones(1, 5).expand(1, 5), torch.ones(5, 5).t()):
        TrainingParts(model=with_buffer(sound))
    TrainingParts(model=with_buffer(expanded, persistent=False))  # it is not stored


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on another accelerator."""

    device = torch.device("mps:0")


def test_a_model_on_another_accelerator_is_refused_with_its_name_and_the_device(monkeypatch):
    model = torch.nn.Linear(1, 1)
    state = {"weight": torch.zeros(1), "bias": torch.zeros(1).as_subclass(Elsewhere)}
    monkeypatch.setattr(storable, "plain_state", lambda _: state)
    with pytest.raises(InvalidInputError, match="The model's bias lies on mps:0"):
        TrainingParts(model=model)


@pytest.fixture
def mesh(tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "tensor"))
    dist.destroy_process_group()


def distributed(mesh, *placements: Placement):
    model = torch.nn.Linear(2, 2)
    tensor = DTensor.from_local(torch.ones(2, 2), mesh, list(placements), run_check=False)
    model.weight = torch.nn.Parameter(tensor)
    return model


def test_two_ways_to_shard_one_dimension_are_refused_when_the_model_is_handed_over(mesh):
    model = distributed(mesh, _StridedShard(0, split_factor=2), Shard(0))
    with pytest.raises(
        InvalidInputError, match=r"weight is distributed .* FSDP2 with tensor parallel"
    ) as met:
        TrainingParts(model=model)
    assert "Reduce" not in met.value.message


def test_sums_that_are_not_whole_are_refused_and_other_layouts_are_not(mesh):
    with pytest.raises(InvalidInputError, match=r"weight is distributed .* Reduce it first"):
        TrainingParts(model=distributed(mesh, Replicate(), Partial()))
    TrainingParts(model=distributed(mesh, Replicate(), Shard(1)))


def test_a_lazy_module_is_refused_until_it_has_seen_a_batch():
    model = torch.nn.Sequential(torch.nn.LazyLinear(2))
    with pytest.raises(InvalidInputError, match=r"The model's 0\.weight is lazy .* pass one batch"):
        TrainingParts(model=model)
    model(torch.ones(1, 3))
    TrainingParts(model=model)


def with_teacher():
    """A student, and a frozen teacher that the state leaves out."""
    model: torch.nn.Module = torch.nn.ModuleDict(
        {"student": torch.nn.Linear(2, 2), "teacher": torch.nn.BatchNorm1d(2)}
    )
    model.register_state_dict_post_hook(without_teacher)
    return model


def without_teacher(_module, state, _prefix, _metadata):
    for name in [name for name in state if name.startswith("teacher.")]:
        del state[name]


def test_a_state_that_leaves_out_what_loading_asks_for_is_refused():
    with pytest.raises(
        InvalidInputError,
        match=r"leaves out teacher\.bias, .*teacher\.weight, and .* `missing_keys`",
    ):
        TrainingParts(model=with_teacher())


def test_a_model_that_loads_without_what_its_state_leaves_out_is_not_refused():
    model = with_teacher()
    before = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    model.register_load_state_dict_post_hook(lambda _, keys: keys.missing_keys.clear())
    TrainingParts(model=model)
    after = [*model.parameters(), *model.buffers()]
    assert all(map(torch.equal, before, after))


class Renamed(torch.nn.Linear):
    """Calls its weight by another name in its state."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}kernel"] = destination.pop(f"{prefix}weight")

    def _load_from_state_dict(self, state, prefix, *args):
        state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")
        super()._load_from_state_dict(state, prefix, *args)


def test_a_model_that_renames_its_state_both_ways_is_not_refused():
    TrainingParts(model=torch.nn.Sequential(Renamed(2, 2)))
