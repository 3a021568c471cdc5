"""Live tensors to one rank's shards: plan once, then one copy into a buffer that somebody else owns."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future
from typing_extensions import override

from ray_workers.planners import local_part
from ray_workers.shard_plan import PlannedChunk, PlannedPart, ShardPlan, plan_items, plan_shard
from ray_workers.shard_reading import (
    PawlStorageReader,
    ReadShard,
    check_fit,
    load_tensors,
    read_tensor,
    read_tensors,
)
from ray_workers.store.errors import InternalError, InvalidInputError

__all__ = [
    "PawlStorageReader",
    "PawlStorageWriter",
    "PlannedChunk",
    "PlannedPart",
    "ReadShard",
    "ShardPlan",
    "check_fit",
    "load_tensors",
    "plan_shard",
    "read_tensor",
    "read_tensors",
    "write_headers",
    "write_shard",
]


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
    write_headers(plan, buffer)
    with torch.no_grad():
        for chunk in plan.chunks:
            _copy_into(buffer, chunk, local_part(tensors[chunk.path]))


def write_headers(plan: ShardPlan, buffer: memoryview) -> None:
    """Everything of the shards but the tensors' data."""
    for part in plan.parts:
        buffer[part.begin : part.begin + len(part.header)] = part.header


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
        shard = plan_items(plan.items, self._tensors)
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
