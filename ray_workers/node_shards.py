"""Shards that every rank of a node needs: one of them reads each from storage, the others take it from the node's memory.

Of state that each rank holds whole, as under DDP, every rank needs every shard, and a node of eight would ask the network
for the same bytes eight times. The rank that comes to a shard first claims it, by the name of a file in the staging folder,
fills that file, and gives it its final name when the digest holds. Whoever takes a shard from there digests it again. No
rank waits for another one that is gone, and whatever cannot be shared is read from storage as if nobody were beside.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from ray_workers.hot_shards import fill_from_file
from ray_workers.staging_files import StagingFolder
from ray_workers.store.errors import StoreRefusedError
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.shard_filling import Places, fill_from
from ray_workers.store.shards import ShardEntry, nbytes_of, read_shard

__all__ = ["NodeShards", "replicated_shards"]

_LOOK_S = 0.01
_PATIENCE_S = 600.0
"""For a rank that lives and does not come to an end; storage answers or fails long before."""
_MOST_SHARE = 0.5
"""A shard is shared when more than this part of it is what every rank holds whole."""

_log = logging.getLogger("pawl.restore")


def replicated_shards(
    manifest: Manifest, template: Mapping[str, torch.Tensor]
) -> dict[str, ShardEntry]:
    """By key, the shards that mostly hold what each rank needs whole: plain tensors, and not parts of distributed ones.

    Args:
        manifest: of the version.
        template: this rank's shared state, by path.
    """
    needed = dict.fromkeys(range(len(manifest.shards)), 0)
    for path, tensor in template.items():
        layout = manifest.tensors.get(path)
        if layout is not None and not isinstance(tensor, DTensor):
            for chunk in layout.chunks:
                needed[chunk.shard] += nbytes_of(layout.dtype, chunk.shape)
    entries = (manifest.shards[index] for index in needed)
    return {
        entry.key: entry
        for entry, nbytes in zip(entries, needed.values(), strict=True)
        if nbytes > _MOST_SHARE * entry.bytes
    }


class NodeShards:
    """Shards shared among the ranks of this node, while they restore one version.

    Args:
        staging: where they lie meanwhile.
        store: where they come from.
        shared: those that all ranks of the node need, by key.
        patience_s: longest wait for a rank that is at work on one.
    """

    def __init__(
        self,
        staging: StagingFolder,
        store: ObjectStore,
        shared: Mapping[str, ShardEntry],
        *,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._staging, self._store = staging, store
        self._patience_s = patience_s
        self._shared = shared if self._has_room(shared) else {}
        self._taken: list[int] = []

    @property
    def bytes_taken(self) -> int:
        """Of all shards that another rank had read."""
        return sum(self._taken)

    def fill(self, entry: ShardEntry, places: Places) -> bool:
        """As `store.shard_filling.fill_shard`; False: it is not shared, and the places hold anything.

        Raises:
            DamageError, ObjectNotFoundError: this rank read it from storage, and it is not what was written.
        """
        if entry.key not in self._shared:
            return False
        path = self._staging.shared_path(entry.digest)
        part = path.with_name(f"{path.name}.part")
        until = time.monotonic() + self._patience_s
        with suppress(OSError):  # of the folder; those of the store are errors of ours
            while time.monotonic() < until:
                if path.exists():
                    return self._take(path, entry, places)
                with _claimed(part, entry.bytes) as descriptor:
                    if descriptor is not None and not path.exists():
                        self._fetch(descriptor, part, path, entry, places)
                        return True
                _await(part, lambda: path.exists() or time.monotonic() > until)
        return False

    def _take(self, path: Path, entry: ShardEntry, places: Places) -> bool:
        held = fill_from_file(path, entry, places)
        if held:
            self._taken.append(entry.bytes)
        return held

    def _fetch(
        self, descriptor: int, part: Path, path: Path, entry: ShardEntry, places: Places
    ) -> None:
        memory = memoryview(mmap.mmap(descriptor, entry.bytes))
        shard = memoryview(read_shard(self._store, entry, lambda _: memory))
        if shard.readonly:
            memory[:] = shard  # a small one is read in one piece
        with suppress(FileNotFoundError):  # taken for a dead rank's: the others read it themselves
            part.rename(path)
        fill_from(shard, entry, places)

    def _has_room(self, shared: Mapping[str, ShardEntry]) -> bool:
        needed = sum(entry.bytes for entry in shared.values())
        limit = self._staging.limit_bytes
        if limit is not None and needed > limit:
            return False
        try:
            self._staging.check_space(needed)
        except StoreRefusedError:
            _log.info(
                "no room to share %.1f MB on this node: every rank reads its own", needed / 1e6
            )
            return False
        return True


@contextmanager
def _claimed(part: Path, size: int) -> Iterator[int | None]:
    """A file of that name and size, this rank's alone, or None: somebody else is at work on it.

    It appears locked, so that nobody takes its owner for dead. What is still called so at the end is removed.
    """
    own = part.with_name(f"{part.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    mine = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            os.link(own, part)
            mine = True
        except FileExistsError:
            yield None
        else:
            os.posix_fallocate(descriptor, 0, size)  # a full memory shows here, not as a SIGBUS
            yield descriptor
    finally:
        own.unlink(missing_ok=True)
        if mine:
            _unlink_same(part, descriptor)
        # Closing does not do it while the file is mapped, and an error on its way keeps the mapping.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _await(part: Path, over: Callable[[], bool]) -> None:
    """Return when nobody is at work on it any more; what a dead rank left is removed."""
    with suppress(FileNotFoundError):
        descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            while not over():
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    _unlink_same(part, descriptor)
                    return
                time.sleep(_LOOK_S)
        finally:
            os.close(descriptor)


def _unlink_same(path: Path, descriptor: int) -> None:
    """Remove the name if it still is that of the open file."""
    with suppress(FileNotFoundError):
        there, mine = path.stat(follow_symlinks=False), os.fstat(descriptor)
        if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
            path.unlink()
