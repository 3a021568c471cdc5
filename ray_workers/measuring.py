"""What one pass over a version's shards tells: structure, finite values, norm of the parameters and of their update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ray_workers.store.errors import DamageError, MissingError
from ray_workers.store.layout import Chunk
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.shards import ShardEntry, data_start, parse_header, read_shard
from ray_workers.tensor_types import dtype_named

__all__ = ["Measured", "measure_shards"]

_PARAMETERS = "shared/model/"


@dataclass(slots=True, kw_only=True)
class Measured:
    problem: str | None = None
    """The first thing that is wrong; the rest is not measured then."""
    tensors: int = 0
    bytes_read: int = 0
    squares: float = 0.0
    update_squares: float | None = None
    """None: there is no parent whose shards lie alike."""

    @property
    def norm(self) -> float:
        return math.sqrt(self.squares)

    @property
    def update(self) -> float | None:
        return None if self.update_squares is None else math.sqrt(self.update_squares)


def measure_shards(store: ObjectStore, manifest: Manifest, parent: Manifest | None) -> Measured:
    """Read every shard, and the parent's beside it, one pair in memory at a time.

    Raises:
        DamageError, ObjectNotFoundError: a shard of the version itself is bad. The parent's may be: then there is no update.
    """
    found = Measured()
    own, theirs = _parameter_chunks(manifest), {} if parent is None else _parameter_chunks(parent)
    if parent is not None and _places(own) == _places(theirs):
        found.update_squares = 0.0
    for shard, entry in enumerate(manifest.shards):
        data = read_shard(store, entry)
        found.bytes_read += len(data)
        found.problem = _structure_problem(manifest, shard, entry, data)
        if found.problem is None:
            before = _earlier(store, found, parent, theirs, own.get(shard, {}))
            _measure(found, _tensors(entry, data), own.get(shard, {}), before)
        if found.problem is not None:
            return found
    return found


_Chunks = dict[int, dict[str, tuple[str, Chunk]]]
"""Shard index -> name in the shard -> path and chunk."""


def _parameter_chunks(manifest: Manifest) -> _Chunks:
    """Integers among a model's tensors are counters, such as BatchNorm's: they grow for ever, and are no jump."""
    found: _Chunks = {}
    for path, layout in manifest.tensors.items():
        if path.startswith(_PARAMETERS) and _has_fractions(dtype_named(layout.dtype)):
            for chunk in layout.chunks:
                found.setdefault(chunk.shard, {})[chunk.name] = (path, chunk)
    return found


def _places(chunks: _Chunks) -> set[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    return {
        (path, chunk.offsets, chunk.shape)
        for by_name in chunks.values()
        for path, chunk in by_name.values()
    }


_Before = dict[tuple[str, tuple[int, ...]], torch.Tensor]


def _earlier(
    store: ObjectStore,
    found: Measured,
    parent: Manifest | None,
    theirs: _Chunks,
    own: dict[str, tuple[str, Chunk]],
) -> _Before:
    """The parent's values at the places of this shard's parameters; empty when they cannot be had."""
    if parent is None or found.update_squares is None:
        return {}
    wanted = {(path, chunk.offsets) for path, chunk in own.values()}
    before: _Before = {}
    try:
        for shard, by_name in theirs.items():
            places = {
                n: (p, c.offsets) for n, (p, c) in by_name.items() if (p, c.offsets) in wanted
            }
            if places:
                entry = parent.shards[shard]
                data = read_shard(store, entry)
                found.bytes_read += len(data)
                before |= {places[n]: t for n, t in _tensors(entry, data) if n in places}
    except (DamageError, MissingError):
        # The parent has a verdict of its own coming; this one's does not hang on it.
        found.update_squares = None
        return {}
    return before


def _measure(
    found: Measured,
    tensors: Iterator[tuple[str, torch.Tensor]],
    parameters: dict[str, tuple[str, Chunk]],
    before: _Before,
) -> None:
    for name, tensor in tensors:
        if not _all_finite(tensor):
            found.problem = _not_finite(name, tensor)
            return
        found.tensors += 1
        if name not in parameters:
            continue
        found.squares += _sum_of_squares(tensor)
        path, chunk = parameters[name]
        old = before.get((path, chunk.offsets))
        if found.update_squares is not None and old is not None:
            found.update_squares += _sum_of_squares(_wide(tensor) - _wide(old))


def _has_fractions(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _sum_of_squares(tensor: torch.Tensor) -> float:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return float(real.double().square().sum())


def _structure_problem(
    manifest: Manifest, shard: int, entry: ShardEntry, data: bytes | memoryview
) -> str | None:
    """The first disagreement between a shard's own table and the manifest; None when they agree."""
    table = {t.name: (t.dtype, t.shape) for t in parse_header(data, key=entry.key)}
    wanted = {
        chunk.name: (layout.dtype, chunk.shape)
        for layout in manifest.tensors.values()
        for chunk in layout.chunks
        if chunk.shard == shard
    } | {f.name: ("U8", (f.bytes,)) for f in manifest.files if f.shard == shard}
    for name in sorted(wanted.keys() | table.keys()):
        if wanted.get(name) != table.get(name):
            return f"{entry.key} holds {table.get(name)} under {name!r} where the manifest says {wanted.get(name)}"
    return None


def _tensors(entry: ShardEntry, data: bytes | memoryview) -> Iterator[tuple[str, torch.Tensor]]:
    view = bytearray(data)  # torch wants writable memory; the copy is dropped with the shard
    start = data_start(data, key=entry.key)
    for item in parse_header(data, key=entry.key):
        if item.nbytes == 0:
            continue
        dtype = dtype_named(item.dtype)
        begin = start + item.offset
        raw = torch.frombuffer(view, dtype=torch.uint8, count=item.nbytes, offset=begin)
        yield item.name, (raw if begin % dtype.itemsize == 0 else raw.clone()).view(dtype)


def _all_finite(tensor: torch.Tensor) -> bool:
    if not _has_fractions(tensor.dtype):
        return True
    narrow = tensor.dtype.itemsize == 1  # torch compares no 8-bit floats
    return bool(torch.isfinite(tensor.float() if narrow else tensor).all())


def _not_finite(name: str, tensor: torch.Tensor) -> str:
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    bad = int((~torch.isfinite(wide)).sum())
    return f"{name} holds {bad} values that are NaN or infinite, of {tensor.numel()}"
