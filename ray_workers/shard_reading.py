"""Shards back to live tensors, on any layout. Everything is fetched and verified before the first tensor is changed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future
from typing_extensions import Buffer, override

from ray_workers.planners import (
    SHARED_PREFIX,
    PawlLoadPlanner,
    Signature,
    describe_mismatch,
    signature_of,
)
from ray_workers.store.errors import MalformedObjectError, StateMismatchError
from ray_workers.store.layout import Chunk, TensorLayout, check_cover
from ray_workers.store.manifest import Manifest
from ray_workers.store.shards import ShardEntry, ShardTensor, data_start, parse_header
from ray_workers.tensor_types import dtype_named, torch_shape

__all__ = [
    "PawlStorageReader",
    "ReadShard",
    "check_fit",
    "chunk_in",
    "empty_tensor",
    "load_tensors",
    "read_tensor",
    "read_tensors",
    "stored_layouts",
    "stored_signature",
]

ReadShard = Callable[[ShardEntry], Buffer]
"""Gives a whole shard, digest verified (`store.shards.read_shard`); called from several threads, once per shard."""

_PARALLEL_READS = 4


def stored_layouts(manifest: Manifest, prefix: str) -> dict[str, TensorLayout]:
    """The version's tensors below `prefix`."""
    return {
        path: layout
        for path, layout in manifest.tensors.items()
        if path == prefix or path.startswith(f"{prefix}/")
    }


def check_fit(
    template: Mapping[str, torch.Tensor], manifest: Manifest, *, prefix: str = SHARED_PREFIX
) -> None:
    """Return if `template` has exactly the tensors stored below `prefix`: same paths, types and whole shapes.

    Raises:
        StateMismatchError: it lists what is missing, unexpected and different.
    """
    stored = {
        path: stored_signature(layout) for path, layout in stored_layouts(manifest, prefix).items()
    }
    problem = describe_mismatch(
        {path: signature_of(tensor) for path, tensor in template.items()}, stored
    )
    if problem is not None:
        raise StateMismatchError(problem)


def load_tensors(
    template: Mapping[str, torch.Tensor],
    manifest: Manifest,
    read_shard: ReadShard,
    *,
    prefix: str = SHARED_PREFIX,
) -> None:
    """Fill the template's tensors in place with what is stored below `prefix`, resharding as their layout asks.

    No other rank is asked, and only shards that hold something for this rank are read.

    Raises:
        StateMismatchError: the template does not fit; nothing was changed.
        DamageError: a shard is damaged; nothing was changed.
    """
    reader = PawlStorageReader(stored_layouts(manifest, prefix), manifest.shards, read_shard)
    planner = PawlLoadPlanner()
    # The calls of `torch.distributed.checkpoint.load` without its collectives and its pickled exceptions.
    metadata = reader.read_metadata()
    planner.set_up_planner(dict(template), metadata, is_coordinator=False)
    reader.set_up_storage_reader(metadata, is_coordinator=False)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    reader.read_data(planner.finish_plan(plan), planner).wait()


def stored_signature(layout: TensorLayout) -> Signature:
    dtype = dtype_named(layout.dtype)
    return dtype, torch_shape(dtype, layout.shape)


def empty_tensor(layout: TensorLayout) -> torch.Tensor:
    """A whole tensor on the CPU for `layout`, not filled."""
    dtype, shape = stored_signature(layout)
    return torch.empty(shape, dtype=dtype)


def read_tensors(
    manifest: Manifest, read_shard: ReadShard, *, prefix: str
) -> dict[str, torch.Tensor]:
    """Every tensor stored below `prefix`, whole, on the CPU; for state that has no template."""
    layouts = stored_layouts(manifest, prefix)
    tensors = {path: empty_tensor(layout) for path, layout in layouts.items()}
    load_tensors(tensors, manifest, read_shard, prefix=prefix)
    return tensors


def read_tensor(manifest: Manifest, path: str, read_shard: ReadShard) -> torch.Tensor:
    """One tensor, whole, on the CPU. Raises `StateMismatchError` when the version has none of that path."""
    if path not in manifest.tensors:
        raise StateMismatchError(f"The version has no tensor {path}.")
    tensor = empty_tensor(manifest.tensors[path])
    load_tensors({path: tensor}, manifest, read_shard, prefix=path)
    return tensor


def chunk_in(
    tensors: Mapping[str, ShardTensor], chunk: Chunk, dtype_name: str, *, key: str
) -> ShardTensor:
    """The chunk among a shard's tensors. Raises `MalformedObjectError` when manifest and shard disagree."""
    found = tensors.get(chunk.name)
    if found is None or (found.dtype, found.shape) != (dtype_name, chunk.shape):
        raise MalformedObjectError(
            f"{key} does not hold the tensor {chunk.name} as its manifest says.", key=key
        )
    return found


class _OpenShard:
    """A verified shard in memory; tensors are views of it, and must not be written to."""

    def __init__(self, data: Buffer, key: str) -> None:
        self._key = key
        self._tensors = {tensor.name: tensor for tensor in parse_header(data, key=key)}
        self._start = data_start(data, key=key)
        with warnings.catch_warnings():
            # torch warns that `bytes` are read-only; nothing here writes.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            self._bytes = torch.frombuffer(data, dtype=torch.uint8)

    def tensor(self, chunk: Chunk, dtype_name: str) -> torch.Tensor:
        """The chunk's values. Raises `MalformedObjectError` when manifest and shard disagree."""
        found = chunk_in(self._tensors, chunk, dtype_name, key=self._key)
        dtype = dtype_named(dtype_name)
        begin = self._start + found.offset
        raw = self._bytes[begin : begin + found.nbytes]
        if begin % dtype.itemsize:
            raw = raw.clone()  # another writer's shard: legal, but not aligned
        return raw.view(dtype).view(torch_shape(dtype, chunk.shape))


class PawlStorageReader(StorageReader):
    """DCP's reader over the shards of one version.

    Args:
        layouts: the tensors to offer, by path.
        shards: the manifest's shards, in its order.
        read_shard: fetches and verifies one; called once per shard that a plan needs, in `prepare_local_plan`.
    """

    def __init__(
        self,
        layouts: Mapping[str, TensorLayout],
        shards: tuple[ShardEntry, ...],
        read_shard: ReadShard,
    ) -> None:
        for path, layout in layouts.items():
            problem = check_cover(layout)
            if problem is not None:
                # A gap would leave the template as it was, without a word.
                raise MalformedObjectError(f"The manifest's tensor {path} is not whole: {problem}.")
        self._layouts = layouts
        self._shards = shards
        self._read_shard = read_shard
        self._open: dict[int, _OpenShard] = {}
        self._chunks = {
            MetadataIndex(path, torch_shape(dtype_named(layout.dtype), chunk.offsets)): chunk
            for path, layout in layouts.items()
            for chunk in layout.chunks
        }

    @override
    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A new load begins; shards are fetched afresh."""
        self._open = {}

    @override
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The manifest's layouts in DCP's words."""
        return Metadata({path: _describe(layout) for path, layout in self._layouts.items()})

    @override
    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing to prepare."""

    @override
    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Fetch and check all that the plan needs, so that `read_data` cannot fail half-way."""
        wanted = [(item, self._chunks[item.storage_index]) for item in plan.items]
        self._fetch(chunk.shard for _, chunk in wanted)
        for item, _ in wanted:
            self._source(item)
        return plan

    @override
    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @override
    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        with torch.no_grad():
            for item in plan.items:
                source = self._source(item)
                for axis, (begin, length) in enumerate(
                    zip(item.storage_offsets, item.lengths, strict=True)
                ):
                    source = source.narrow(axis, begin, length)
                target = planner.resolve_tensor(item)
                target.copy_(source)
                planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    @override
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False

    def chunk(self, item: ReadItem) -> Chunk:
        """What a planned read reads."""
        return self._chunks[item.storage_index]

    def entries(self, indexes: Iterable[int]) -> dict[int, ShardEntry]:
        """The manifest's shards of these numbers. Raises `MalformedObjectError` when it has not so many."""
        wanted = sorted(indexes)
        if wanted and wanted[-1] >= len(self._shards):
            raise MalformedObjectError(
                f"The manifest names shard {wanted[-1]} of {len(self._shards)}."
            )
        return {index: self._shards[index] for index in wanted}

    def _source(self, item: ReadItem) -> torch.Tensor:
        chunk = self.chunk(item)
        return self._open[chunk.shard].tensor(chunk, self._layouts[item.storage_index.fqn].dtype)

    def _fetch(self, indexes: Iterable[int]) -> None:
        entries = self.entries(set(indexes) - set(self._open))
        with ThreadPoolExecutor(max_workers=_PARALLEL_READS) as pool:
            shards = list(pool.map(self._read_shard, entries.values()))
        # Opened in this thread alone: `warnings.catch_warnings` is not for several.
        for (index, entry), data in zip(entries.items(), shards, strict=True):
            self._open[index] = _OpenShard(data, entry.key)


def _describe(layout: TensorLayout) -> TensorStorageMetadata:
    dtype = dtype_named(layout.dtype)
    chunks = [
        ChunkStorageMetadata(
            offsets=torch.Size(torch_shape(dtype, chunk.offsets)),
            sizes=torch.Size(torch_shape(dtype, chunk.shape)),
        )
        for chunk in layout.chunks
    ]
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=dtype),
        size=torch.Size(torch_shape(dtype, layout.shape)),
        chunks=chunks,
    )
