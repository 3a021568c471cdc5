"""Shards straight into live tensors, each byte moved once: for whoever throws the tensors away when a shard is damaged.

`shard_reading` verifies everything before it changes the first tensor, and has the state in memory twice for that. Here
the digest of a shard is known when its tensors are full already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.checkpoint.planner import LoadPlanner, ReadItem

from ray_workers.planners import PawlLoadPlanner
from ray_workers.shard_reading import PawlStorageReader, chunk_in, stored_layouts
from ray_workers.store.layout import Chunk, TensorLayout
from ray_workers.store.manifest import Manifest
from ray_workers.store.shard_filling import Places
from ray_workers.store.shards import ShardEntry, ShardTensor
from ray_workers.tensor_types import dtype_named, torch_shape

__all__ = ["FillShard", "fill_tensors"]

FillShard = Callable[[ShardEntry, Places], None]
"""Reads one shard into the places given, verified when it returns; called from several threads, once per shard."""

_SHARDS_AT_ONCE = 4


def fill_tensors(
    template: Mapping[str, torch.Tensor],
    manifest: Manifest,
    fill_shard: FillShard,
    *,
    prefixes: Iterable[str],
    begin: float = 0.0,
) -> None:
    """As `shard_reading.load_tensors`, for what is stored below any of `prefixes`.

    Args:
        template: the tensors.
        manifest: of the version.
        fill_shard: reads one shard.
        prefixes: of their paths.
        begin: how far down the list of shards to begin, from 0 to 1; those before come last.

    Raises:
        StateMismatchError: the template does not fit; nothing was changed.
        DamageError: a shard is damaged. The tensors hold anything by then, and must not be used.
    """
    layouts = {p: x for prefix in prefixes for p, x in stored_layouts(manifest, prefix).items()}
    reader = PawlStorageReader(layouts, manifest.shards, lambda _: b"")
    planner = PawlLoadPlanner()
    metadata = reader.read_metadata()
    planner.set_up_planner(dict(template), metadata, is_coordinator=False)
    plan = planner.finish_plan(planner.create_local_plan())
    fillings: dict[int, _Filling] = defaultdict(_Filling)
    for item in plan.items:
        layout = layouts[item.storage_index.fqn]
        chunk = reader.chunk(item)
        fillings[chunk.shard].add(chunk, layout, item, planner)
    entries = _from(reader.entries(fillings), begin)
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        running = [
            pool.submit(fillings[index].run, entry, fill_shard) for index, entry in entries.items()
        ]
    for one in running:
        one.result()


def _from(entries: Mapping[int, ShardEntry], begin: float) -> dict[int, ShardEntry]:
    items = list(entries.items())
    first = int(begin * len(items))
    return dict(items[first:] + items[:first])


@dataclass(slots=True)
class _Wanted:
    """One chunk, and what of it goes where."""

    layout: TensorLayout
    chunk: Chunk
    items: list[tuple[ReadItem, torch.Tensor]] = field(default_factory=list)

    def memory(self) -> torch.Tensor:
        """Where the chunk's bytes go: its target's own memory if they lie there as they are stored, else new."""
        dtype = dtype_named(self.layout.dtype)
        shape = torch_shape(dtype, self.chunk.shape)
        if len(self.items) == 1:
            item, target = self.items[0]
            if tuple(item.lengths) == shape and _is_plain(target):
                return target
        return torch.empty(shape, dtype=dtype)

    def spread(self, memory: torch.Tensor) -> None:
        """Bring the verified values to where `memory` is not."""
        for item, target in self.items:
            if target is memory:
                # The bytes came by address; whoever watches for changes in place is told.
                torch.autograd.graph.increment_version(target)
                continue
            source = memory
            for axis, (begin, length) in enumerate(
                zip(item.storage_offsets, item.lengths, strict=True)
            ):
                source = source.narrow(axis, begin, length)
            target.copy_(source)


@dataclass(slots=True)
class _Filling:
    """All that is wanted of one shard."""

    wanted: dict[str, _Wanted] = field(default_factory=dict)

    def add(self, chunk: Chunk, layout: TensorLayout, item: ReadItem, planner: LoadPlanner) -> None:
        target = planner.resolve_tensor(item).detach()
        self.wanted.setdefault(chunk.name, _Wanted(layout, chunk)).items.append((item, target))

    def run(self, entry: ShardEntry, fill_shard: FillShard) -> None:
        memories = {name: wanted.memory() for name, wanted in self.wanted.items()}

        def places(tensors: tuple[ShardTensor, ...]) -> Sequence[memoryview | None]:
            found = {tensor.name: tensor for tensor in tensors}
            for wanted in self.wanted.values():
                chunk_in(found, wanted.chunk, wanted.layout.dtype, key=entry.key)
            return [_bytes_of(memories.get(tensor.name)) for tensor in tensors]

        fill_shard(entry, places)
        with torch.no_grad():
            for name, wanted in self.wanted.items():
                wanted.spread(memories[name])


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its values lie in this process's memory in the order in which they are stored."""
    return (
        tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def _bytes_of(tensor: torch.Tensor | None) -> memoryview | None:
    if tensor is None:
        return None
    if not tensor.numel():
        return memoryview(b"")
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
