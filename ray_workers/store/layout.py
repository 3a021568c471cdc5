"""How a tensor lies over shards: the chunks each rank wrote, merged, and proven to cover the tensor exactly once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_workers.store.errors import InvalidInputError
from ray_workers.store.shards import nbytes_of
from ray_workers.store.strict_json import Fields

__all__ = ["Chunk", "TensorLayout", "check_cover", "merge_layouts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A box of a tensor, stored as one tensor of one shard."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    shard: int
    """Index into the manifest's `shards`."""
    name: str
    """The tensor's name inside that shard."""

    def to_json(self) -> dict[str, Any]:
        return {
            "offsets": list(self.offsets), "shape": list(self.shape),
            "shard": self.shard, "name": self.name,
        }  # fmt: skip

    @classmethod
    def from_json(cls, fields: Fields) -> Chunk:
        with fields:
            return cls(
                offsets=fields.integers("offsets"),
                shape=fields.integers("shape"),
                shard=fields.integer("shard"),
                name=fields.text("name"),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLayout:
    """A logical tensor. A rank's own layout lists only the chunks that this rank writes, often none."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    def to_json(self) -> dict[str, Any]:
        chunks = [chunk.to_json() for chunk in self.chunks]
        return {"dtype": self.dtype, "shape": list(self.shape), "chunks": chunks}

    @classmethod
    def from_json(cls, fields: Fields) -> TensorLayout:
        with fields:
            return cls(
                dtype=fields.text("dtype"),
                shape=fields.integers("shape"),
                chunks=tuple(Chunk.from_json(item) for item in fields.objects("chunks")),
            )


def merge_layouts(per_rank: Sequence[Mapping[str, TensorLayout]]) -> dict[str, TensorLayout]:
    """One layout of all ranks' layouts; the chunks of `per_rank[i]` get `shard=i`.

    Every rank lists every tensor it knows, so a tensor that no rank wrote, or that two ranks know in two shapes, is
    found here, before anything is committed.

    Raises:
        InvalidInputError: it names the tensor and what is wrong.
    """
    first: dict[str, TensorLayout] = {}
    chunks: dict[str, list[Chunk]] = {}
    for shard, layouts in enumerate(per_rank):
        for path, layout in layouts.items():
            known = first.setdefault(path, layout)
            chunks.setdefault(path, []).extend(
                replace(chunk, shard=shard) for chunk in layout.chunks
            )
            if (known.dtype, known.shape) != (layout.dtype, layout.shape):
                raise InvalidInputError(
                    f"Ranks disagree about the tensor {path}: {known.dtype}{list(known.shape)} on a lower rank, "
                    f"{layout.dtype}{list(layout.shape)} on rank {shard}. Make it equal, or keep it as rank-local state."
                )
    merged = {path: replace(known, chunks=tuple(chunks[path])) for path, known in first.items()}
    for path, layout in merged.items():
        problem = check_cover(layout)
        if problem is not None:
            raise InvalidInputError(
                f"The tensor {path} would not be stored whole: {problem}. A tensor that only some ranks have must be "
                "rank-local state; one that all share must be there on rank 0."
            )
    return dict(sorted(merged.items()))


def check_cover(layout: TensorLayout) -> str | None:
    """What is wrong with the chunks of a tensor, or None when they cover its shape exactly once."""
    try:
        nbytes_of(layout.dtype, layout.shape)
    except ValueError as error:
        return str(error)
    for chunk in layout.chunks:
        if not _inside(chunk, layout.shape):
            return f"a chunk at {list(chunk.offsets)} of {list(chunk.shape)} lies outside {list(layout.shape)}"
    solid = [chunk for chunk in layout.chunks if math.prod(chunk.shape)]
    if _any_overlap(solid):
        return "two chunks overlap"
    covered, wanted = sum(math.prod(chunk.shape) for chunk in solid), math.prod(layout.shape)
    # Boxes inside the shape that do not overlap and add up to its volume leave no gap.
    return None if covered == wanted else f"{covered} of {wanted} items are there"


def _inside(chunk: Chunk, shape: tuple[int, ...]) -> bool:
    if len(chunk.offsets) != len(shape) or len(chunk.shape) != len(shape):
        return False
    return all(o + n <= dim for o, n, dim in zip(chunk.offsets, chunk.shape, shape, strict=True))


def _any_overlap(chunks: Sequence[Chunk]) -> bool:
    """A sweep along the axis with most distinct offsets, so that the usual one-axis sharding takes n log n."""
    axes = range(len(chunks[0].shape)) if chunks else ()
    if not axes:
        return len(chunks) > 1
    axis = max(axes, key=lambda i: len({chunk.offsets[i] for chunk in chunks}))
    active: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[axis]):
        start = chunk.offsets[axis]
        active = [other for other in active if other.offsets[axis] + other.shape[axis] > start]
        if any(_overlap(chunk, other) for other in active):
            return True
        active.append(chunk)
    return False


def _overlap(a: Chunk, b: Chunk) -> bool:
    boxes = zip(a.offsets, a.shape, b.offsets, b.shape, strict=True)
    return all(ao < bo + bn and bo < ao + an for ao, an, bo, bn in boxes)
