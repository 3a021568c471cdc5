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
