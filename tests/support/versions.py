"""A version made of in-memory shards, as the checkpoint manager would commit it, without store and log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ray_workers.shard_io import plan_shard, write_shard
from ray_workers.store.checksum import digest_of, verify
from ray_workers.store.layout import TensorLayout, merge_layouts
from ray_workers.store.manifest import Manifest, Progress, ShardEntry, check_coverage

__all__ = ["MemoryVersion", "RankPart", "make_version", "store_tensors", "write_rank"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPart:
    """What one rank hands over; picklable."""

    layouts: dict[str, TensorLayout]
    shard: bytes
    plain: Any = None


@dataclass(slots=True, kw_only=True)
class MemoryVersion:
    """A manifest that went through its bytes, and shards by key; `reads` counts."""

    manifest: Manifest
    shards: dict[str, bytes]
    reads: list[str] = field(default_factory=list)

    def read(self, entry: ShardEntry) -> bytes:
        self.reads.append(entry.key)
        data = self.shards[entry.key]
        verify(data, entry.digest, key=entry.key)
        return data


def write_rank(tensors: Mapping[str, torch.Tensor], *, rank: int, plain: Any = None) -> RankPart:
    plan = plan_shard(tensors, rank=rank)
    buffer = bytearray(b"\xaa" * plan.total)
    write_shard(plan, tensors, memoryview(buffer))
    return RankPart(layouts=plan.layout(), shard=bytes(buffer), plain=plain)


def make_version(parts: Sequence[RankPart], *, plain: Any = None) -> MemoryVersion:
    entries = tuple(
        ShardEntry(
            rank=rank,
            key=f"runs/r/shards/{1:020d}/{rank:032x}.safetensors",
            bytes=len(part.shard),
            digest=digest_of(part.shard),
        )
        for rank, part in enumerate(parts)
    )
    manifest = Manifest(
        payload="state",
        run_id="r",
        fence=1,
        write_id="w",
        created_at="2026-11-24T00:00:00Z",
        parent=None,
        progress=Progress(step=1, epoch=0, finished=False),
        world_size=len(parts),
        shards=entries,
        plain=plain,
        rank_plain=tuple(part.plain for part in parts),
        tensors=merge_layouts([part.layouts for part in parts]),
    )
    manifest = Manifest.from_bytes(manifest.to_bytes())
    check_coverage(manifest)
    shards = {entry.key: part.shard for entry, part in zip(entries, parts, strict=True)}
    return MemoryVersion(manifest=manifest, shards=shards)


def store_tensors(tensors: Mapping[str, torch.Tensor]) -> MemoryVersion:
    """One rank's version of plain tensors."""
    return make_version([write_rank(tensors, rank=0)])
