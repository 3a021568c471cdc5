import pytest
import safetensors.torch
import torch

from ray_workers.store.errors import MalformedObjectError
from ray_workers.tensor_types import dtype_name, dtype_named, stored_shape, torch_shape

ALL = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2,
]  # fmt: skip


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_names_are_those_of_the_library(dtype):
    tensor = torch.zeros(2, 4 * dtype.itemsize, dtype=torch.uint8).view(dtype)
    shard = safetensors.torch.save({"x": tensor})
    ((_, found),) = safetensors.deserialize(shard)
    assert dtype_name(dtype) == found["dtype"]
    assert stored_shape(dtype, (2, 4)) == tuple(found["shape"])


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_names_and_shapes_lead_back(dtype):
    name = dtype_name(dtype)
    assert name is not None
    assert dtype_named(name) is dtype
    for shape in ((), (3,), (2, 0), (2, 3)):
        assert torch_shape(dtype, stored_shape(dtype, shape)) == shape


def test_types_that_a_shard_cannot_hold():
    assert dtype_name(torch.complex128) is None
    assert dtype_name(torch.bits8) is None


def test_a_name_torch_does_not_know():
    with pytest.raises(MalformedObjectError, match="'F6_E2M3' is no tensor type"):
        dtype_named("F6_E2M3")
