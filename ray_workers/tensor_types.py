"""torch's types and shapes against those of a shard (safetensors' names)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ray_workers.store.errors import MalformedObjectError

__all__ = ["dtype_name", "dtype_named", "stored_shape", "torch_shape"]

_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0", torch.float4_e2m1fn_x2: "F4",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str | None:
    """The safetensors name of a torch type; None when a shard cannot hold it."""
    return _NAMES.get(dtype)


def dtype_named(name: str) -> torch.dtype:
    """Inverse of `dtype_name`. Raises `MalformedObjectError`."""
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise MalformedObjectError(f"{name[:40]!r} is no tensor type that torch knows.")
    return dtype


def stored_shape(dtype: torch.dtype, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape as a shard counts it: torch packs two F4 items in one, a shard counts both."""
    if dtype is not torch.float4_e2m1fn_x2 or not shape:
        return tuple(shape)
    return (*shape[:-1], shape[-1] * 2)


def torch_shape(dtype: torch.dtype, shape: Sequence[int]) -> tuple[int, ...]:
    """Inverse of `stored_shape`; also right for the offsets of a chunk."""
    if dtype is not torch.float4_e2m1fn_x2 or not shape:
        return tuple(shape)
    return (*shape[:-1], shape[-1] // 2)
