"""Where each tensor of a rank goes in its shards: planned once, and again only when the layout changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.tensor import DTensor

from ray_workers.planners import PawlSavePlanner, local_part
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.layout import Chunk, TensorLayout
from ray_workers.store.shards import ShardTensor, arrange, build_header
from ray_workers.tensor_types import dtype_name, stored_shape

__all__ = ["PlannedChunk", "PlannedPart", "ShardPlan", "plan_items", "plan_shard"]

_PART_ALIGNMENT = 4096
"""Shards begin on a page of the staging file, so that each can be mapped by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChunk:
    path: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    """As torch counts it."""
    position: int
    """Bytes from the start of the buffer."""
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPart:
    """One shard of a rank: a whole safetensors file in the buffer."""

    begin: int
    """Bytes from the start of the buffer."""
    header: bytes
    bytes: int
    """Of the whole shard."""
    layouts: Mapping[str, TensorLayout]
    """For `merge_layouts`. The first part names every tensor that this rank knows; chunks are those in this shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """Where each tensor of this rank goes in its shards. Reusable as long as it `fits`; stays in its process."""

    parts: tuple[PlannedPart, ...]
    """The shard of what changes, then one for each group that stands still."""
    chunks: tuple[PlannedChunk, ...]
    total: int
    """Bytes of buffer that it takes."""
    signature: tuple[Any, ...]
    groups: tuple[frozenset[str], ...] = ()

    def fits(
        self, tensors: Mapping[str, torch.Tensor], groups: tuple[frozenset[str], ...] = ()
    ) -> bool:
        """True when the same tensors, by path, type, shape and distribution, are there again in the same groups."""
        return self.groups == groups and self.signature == _signature(tensors)

    def layout(self) -> dict[str, TensorLayout]:
        """Every tensor this rank knows, with the chunks of its first shard."""
        return dict(self.parts[0].layouts)


def plan_shard(
    tensors: Mapping[str, torch.Tensor], *, rank: int, groups: tuple[frozenset[str], ...] = ()
) -> ShardPlan:
    """Plan this rank's shards. Reads no tensor data, talks to no other rank; equal layouts give equal headers.

    Args:
        tensors: all that this rank knows.
        rank: this rank.
        groups: paths that get a shard of their own each; those that this rank does not write are passed over.

    Raises:
        InvalidInputError: a tensor cannot be stored; see `planners`.
    """
    planner = PawlSavePlanner(rank=rank)
    planner.set_up_planner(dict(tensors), is_coordinator=rank == 0)
    return plan_items(planner.create_local_plan().items, tensors, groups)


def plan_items(
    items: Sequence[WriteItem],
    tensors: Mapping[str, torch.Tensor],
    groups: tuple[frozenset[str], ...] = (),
) -> ShardPlan:
    """The plan for items that DCP's planner made; as `plan_shard`."""
    own = {item.index.fqn: _chunk_of(item) for item in items}
    apart = frozenset[str]().union(*groups)
    moving = {path: chunk for path, chunk in own.items() if path not in apart}
    parts, chunks, begin = [], list[PlannedChunk](), 0
    for number, group in enumerate((None, *groups)):
        mine = moving if group is None else {p: c for p, c in own.items() if p in group}
        known = tensors if number == 0 else {path: tensors[path] for path in mine}
        layouts = {
            path: TensorLayout(
                dtype=_name(tensor),
                shape=stored_shape(tensor.dtype, tensor.shape),
                chunks=(mine[path],) if path in mine else (),
            )
            for path, tensor in known.items()
        }
        placed = arrange((path, layouts[path].dtype, chunk.shape) for path, chunk in mine.items())
        header = build_header(placed)
        size = len(header) + sum(tensor.nbytes for tensor in placed)
        chunks += (_planned(tensor, tensors, begin + len(header)) for tensor in placed)
        parts.append(PlannedPart(begin=begin, header=header, bytes=size, layouts=layouts))
        begin += size + -size % _PART_ALIGNMENT
    last = parts[-1]
    return ShardPlan(
        parts=tuple(parts),
        chunks=tuple(chunks),
        total=last.begin + last.bytes,
        signature=_signature(tensors),
        groups=groups,
    )


def _planned(tensor: ShardTensor, tensors: Mapping[str, torch.Tensor], start: int) -> PlannedChunk:
    part = local_part(tensors[tensor.name])
    return PlannedChunk(
        path=tensor.name,
        dtype=part.dtype,
        shape=tuple(part.shape),
        position=start + tensor.offset,
        nbytes=tensor.nbytes,
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
