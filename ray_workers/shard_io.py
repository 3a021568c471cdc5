"""Live tensors to one rank's shard: plan once, then one copy into a buffer that somebody else owns."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future
from typing_extensions import override

from ray_workers.planners import PawlSavePlanner, local_part
from ray_workers.shard_reading import (
    PawlStorageReader,
    ReadShard,
    check_fit,
    load_tensors,
    read_tensor,
    read_tensors,
)
from ray_workers.store.errors import InternalError, InvalidInputError
from ray_workers.store.layout import Chunk, TensorLayout
from ray_workers.store.shards import ShardTensor, arrange, build_header
from ray_workers.tensor_types import dtype_name, stored_shape

__all__ = [
    "PawlStorageReader",
    "PawlStorageWriter",
    "PlannedChunk",
    "ReadShard",
    "ShardPlan",
    "check_fit",
    "load_tensors",
    "plan_shard",
    "read_tensor",
    "read_tensors",
    "write_shard",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChunk:
    path: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    """As torch counts it."""
    position: int
    """Bytes from the start of the shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """Where each tensor of this rank goes in its shard. Reusable as long as it `fits`; stays in its process."""

    header: bytes
    chunks: tuple[PlannedChunk, ...]
    total: int
    """Bytes of the whole shard."""
    layouts: Mapping[str, TensorLayout]
    signature: tuple[Any, ...]

    def fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """True when the same tensors, by path, type, shape and distribution, are there again."""
        return self.signature == _signature(tensors)

    def layout(self) -> dict[str, TensorLayout]:
        """Every tensor this rank knows, with the chunks that it writes itself; for `merge_layouts`."""
        return dict(self.layouts)


def plan_shard(tensors: Mapping[str, torch.Tensor], *, rank: int) -> ShardPlan:
    """Plan this rank's shard. Reads no tensor data, talks to no other rank; equal layouts give equal headers.

    Raises:
        InvalidInputError: a tensor cannot be stored; see `planners`.
    """
    planner = PawlSavePlanner(rank=rank)
    planner.set_up_planner(dict(tensors), is_coordinator=rank == 0)
    return _plan_of(planner.create_local_plan().items, tensors)


def _plan_of(items: Sequence[WriteItem], tensors: Mapping[str, torch.Tensor]) -> ShardPlan:
    own = {item.index.fqn: _chunk_of(item) for item in items}
    layouts = {
        path: TensorLayout(
            dtype=_name(tensor),
            shape=stored_shape(tensor.dtype, tensor.shape),
            chunks=(own[path],) if path in own else (),
        )
        for path, tensor in tensors.items()
    }
    placed = arrange((path, layouts[path].dtype, chunk.shape) for path, chunk in own.items())
    header = build_header(placed)
    return ShardPlan(
        header=header,
        chunks=tuple(_planned(tensor, tensors, len(header)) for tensor in placed),
        total=len(header) + sum(tensor.nbytes for tensor in placed),
        layouts=layouts,
        signature=_signature(tensors),
    )


def _planned(tensor: ShardTensor, tensors: Mapping[str, torch.Tensor], start: int) -> PlannedChunk:
    part = local_part(tensors[tensor.name])
    return PlannedChunk(
        path=tensor.name,
        dtype=part.dtype,
        shape=tuple(part.shape),
        position=start + tensor.offset,
    )


def _chunk_of(item: WriteItem) -> Chunk:
    data = item.tensor_data
    if data is None:
        raise InvalidInputError(
            f"{item.index.fqn} is a byte item, which only pickle could write or read: it is refused."
        )
    dtype = data.properties.dtype
    return Chunk(
        offsets=stored_shape(dtype, data.chunk.offsets),
        shape=stored_shape(dtype, data.chunk.sizes),
        shard=0,  # `merge_layouts` knows which
        name=item.index.fqn,
    )


def _name(tensor: torch.Tensor) -> str:
    name = dtype_name(tensor.dtype)
    if name is None:
        raise InvalidInputError(
            f"Tensors of type {tensor.dtype} cannot be stored: convert them first."
        )
    return name


def _signature(tensors: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
    # Taken at each save, so without asking DTensor for offsets: mesh and placements decide them.
    return tuple(
        (path, tensor.dtype, tensor.shape)
        if not isinstance(tensor, DTensor)
        else (path, tensor.dtype, tensor.shape, tensor.placements, tensor.device_mesh)
        for path, tensor in tensors.items()
    )


def write_shard(plan: ShardPlan, tensors: Mapping[str, torch.Tensor], buffer: memoryview) -> None:
    """Copy the tensors' present values into `buffer[:plan.total]`; when it returns they may change again.

    Args:
        plan: one that fits `tensors`.
        tensors: on the CPU or on a CUDA device, contiguous or not.
        buffer: writable bytes, at least `plan.total` of them; a start aligned to 64 keeps every copy aligned.
    """
    if buffer.readonly or buffer.nbytes < plan.total:
        raise InternalError(f"A shard of {plan.total} bytes needs a writable buffer of that size")
    buffer = buffer.cast("B")
    buffer[: len(plan.header)] = plan.header
    with torch.no_grad():
        for chunk in plan.chunks:
            _copy_into(buffer, chunk, local_part(tensors[chunk.path]))


def _copy_into(buffer: memoryview, chunk: PlannedChunk, source: torch.Tensor) -> None:
    if source.dtype != chunk.dtype or source.shape != chunk.shape:
        # `copy_` would convert or broadcast without a word.
        raise InternalError(f"{chunk.path} changed since the shard was planned")
    items = math.prod(chunk.shape)
    if items:
        place = torch.frombuffer(buffer, dtype=chunk.dtype, count=items, offset=chunk.position)
        place.view(chunk.shape).copy_(source)


class PawlStorageWriter(StorageWriter):
    """DCP's writer for one rank: the shard is built in memory from `allocate`.

    Args:
        tensors: what is given to `torch.distributed.checkpoint.save`.
        allocate: gives writable memory of so many bytes.

    Attributes:
        plan: the plan, once data were written.
        buffer: the shard, once data were written.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        allocate: Callable[[int], memoryview] | None = None,
    ) -> None:
        self._tensors = tensors
        self._allocate = allocate or _allocate
        self.plan: ShardPlan | None = None
        self.buffer: memoryview | None = None

    @override
    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A new save begins; where it goes is not this writer's matter."""

    @override
    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to prepare."""

    @override
    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    @override
    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    @override
    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        shard = _plan_of(plan.items, self._tensors)
        buffer = self._allocate(shard.total)
        values = {item.index.fqn: _resolved(planner, item) for item in plan.items}
        write_shard(shard, values, buffer)
        self.plan, self.buffer = shard, buffer
        future: Future[list[WriteResult]] = Future()
        future.set_result(
            [
                WriteResult(index=item.index, size_in_bytes=0, storage_data=None)
                for item in plan.items
            ]
        )
        return future

    @override
    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Nothing: the commit is the log's."""

    @classmethod
    @override
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


def _resolved(planner: SavePlanner, item: WriteItem) -> torch.Tensor:
    value = planner.resolve_data(item)
    if not isinstance(value, torch.Tensor):
        raise InvalidInputError(f"{item.index.fqn} is a byte item: it is refused.")
    return value


def _allocate(size: int) -> memoryview:
    return memoryview(bytearray(size))
