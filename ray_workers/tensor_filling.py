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

from ray_workers.memory_spans import sharing_memory
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
    second = _second_in_memory(template)
    fillings: dict[int, _Filling] = defaultdict(_Filling)
    for item in plan.items:
        layout = layouts[item.storage_index.fqn]
        chunk = reader.chunk(item)
        last = second.get(item.dest_index.fqn, 0)
        fillings[chunk.shard].add(_Wanted(layout, chunk, last), item, planner)
    entries = _from(reader.entries(fillings), begin)
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        running = [
            pool.submit(fillings[index].run, entry, fill_shard) for index, entry in entries.items()
        ]
    left = [wanted for one in running for wanted in one.result()]
    for wanted in sorted(left, key=lambda wanted: wanted.last):
        wanted.spread()


def _second_in_memory(template: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Paths of tensors that lie in another one's memory, from 1 on in the order in which they are to be written.

    Two shards must not come to one place at once: neither would have its digest. So the first tensor is filled there, and
    the others, which as a rule hold the same, after all shards are verified; as everywhere, the last one stands.
    """
    second = {path for _, *others in sharing_memory(template) for path in others}
    return {path: place for place, path in enumerate(template, 1) if path in second}


def _from(entries: Mapping[int, ShardEntry], begin: float) -> dict[int, ShardEntry]:
    items = list(entries.items())
    first = int(begin * len(items))
    return dict(items[first:] + items[:first])


@dataclass(slots=True)
class _Wanted:
    """One chunk, and what of it goes where."""

    layout: TensorLayout
    chunk: Chunk
    last: int
    """Not 0: nothing goes to its place until all shards are verified, and then in the order of these numbers."""
    items: list[tuple[ReadItem, torch.Tensor]] = field(default_factory=list)
    memory: torch.Tensor | None = None
    """Where the chunk's bytes go."""

    def prepare(self) -> None:
        """Have them go to their target's own memory if they lie there as they are stored, else to new."""
        dtype = dtype_named(self.layout.dtype)
        shape = torch_shape(dtype, self.chunk.shape)
        if len(self.items) == 1 and not self.last:
            item, target = self.items[0]
            if tuple(item.lengths) == shape and _is_plain(target):
                self.memory = target
                return
        self.memory = torch.empty(shape, dtype=dtype)

    @torch.no_grad()
    def spread(self) -> None:
        """Bring the verified values to where `memory` is not."""
        memory, self.memory = self.memory, None
        if memory is None:
            return
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

    def add(self, new: _Wanted, item: ReadItem, planner: LoadPlanner) -> None:
        wanted = self.wanted.setdefault(new.chunk.name, new)
        wanted.last = max(wanted.last, new.last)
        wanted.items.append((item, planner.resolve_tensor(item).detach()))

    def run(self, entry: ShardEntry, fill_shard: FillShard) -> list[_Wanted]:
        """Read the shard, and give back what of it is to be spread last."""
        for wanted in self.wanted.values():
            wanted.prepare()

        def places(tensors: tuple[ShardTensor, ...]) -> Sequence[memoryview | None]:
            found = {tensor.name: tensor for tensor in tensors}
            for wanted in self.wanted.values():
                chunk_in(found, wanted.chunk, wanted.layout.dtype, key=entry.key)
            return [self._place(tensor.name) for tensor in tensors]

        fill_shard(entry, places)
        for wanted in self.wanted.values():
            if not wanted.last:
                wanted.spread()
        return [wanted for wanted in self.wanted.values() if wanted.last]

    def _place(self, name: str) -> memoryview | None:
        return _bytes_of(self.wanted[name].memory) if name in self.wanted else None


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
