"""Bringing a version back into a training process: every byte verified before any of it is used."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from typing_extensions import Buffer

from ray_workers.hot_shards import HotShards
from ray_workers.messages import ResumePoint
from ray_workers.planners import SHARED_PREFIX
from ray_workers.resharding import check_worker_count, reshard, sources
from ray_workers.shard_reading import read_tensors
from ray_workers.staging_files import StagingFolder
from ray_workers.state_join import join
from ray_workers.store.errors import DigestMismatchError, StateMismatchError
from ray_workers.store.manifest import Manifest, check_coverage
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.shards import ShardEntry, read_shard

__all__ = ["SHARED", "ShardCache", "check_payload", "rank_prefix", "read_manifest", "restore_rank"]

SHARED = SHARED_PREFIX

_log = logging.getLogger("pawl.restore")


def rank_prefix(rank: int) -> str:
    """Path prefix of the state that belongs to one rank alone and is never shared or de-duplicated."""
    return f"rank/{rank}"


def read_manifest(store: ObjectStore, point: ResumePoint) -> Manifest:
    """The manifest of `point`, its digest verified. Raises `DamageError` or `ObjectNotFoundError`."""
    data = store.get(point.manifest_key)
    manifest = Manifest.from_bytes(data, key=point.manifest_key)
    if manifest.digest != point.name.manifest:
        raise DigestMismatchError(
            f"{point.manifest_key} is not the manifest that was committed.", key=point.manifest_key
        )
    check_coverage(manifest, key=point.manifest_key)
    return manifest


def check_payload(manifest: Manifest, point: ResumePoint, *, has_model: bool) -> None:
    """Raise `StateMismatchError` when the version holds a directory and the loop a model, or the other way round."""
    if has_model == (manifest.payload == "state"):
        return
    version = f"Version {point.name.number} of run {point.run!r}"
    if has_model:
        raise StateMismatchError(
            f"{version} was handed over as a directory, and this loop opens its session with a model: open it without, "
            "and read restored_directory."
        )
    raise StateMismatchError(
        f"{version} holds training state, and this loop opens its session without a model: pass the parts to "
        "CheckpointSession.open."
    )


@dataclass(slots=True)
class ShardCache:
    """Verified shards, each read once while a restore lasts: from this node's memory if they are there, else from storage."""

    store: ObjectStore
    hot: HotShards | None
    _read: dict[str, Buffer]

    def __init__(self, store: ObjectStore, staging: StagingFolder | None = None) -> None:
        self.store = store
        self.hot = None if staging is None else HotShards(staging)
        self._read = {}

    def read(self, entry: ShardEntry) -> Buffer:
        if entry.key not in self._read:
            held = None if self.hot is None else self.hot.read(entry)
            self._read[entry.key] = read_shard(self.store, entry) if held is None else held
        return self._read[entry.key]

    def tell(self, manifest: Manifest) -> None:
        """Say how much came from memory, if anything did."""
        if self.hot is not None and self.hot.bytes_found:
            whole = sum(entry.bytes for entry in manifest.shards)
            _log.info(
                "%.1f MB of the version's %.1f MB came from this node's memory",
                self.hot.bytes_found / 1e6,
                whole / 1e6,
            )


def restore_rank(
    rank: int, world_size: int, manifest: Manifest, cache: ShardCache, *, rule: str = "refuse"
) -> Any:
    """The state that this rank alone saved: RNG, data position, metric series; by `rule` also for other ranks.

    Raises:
        StateMismatchError: the version was saved by another number of workers, and `rule` is not `reshard`.
    """
    saved = manifest.world_size
    check_worker_count(saved, world_size, rule)
    if saved == world_size:
        return _rank_state(rank, manifest, cache)
    lead, own = (_rank_state(source, manifest, cache) for source in sources(rank, saved))
    return reshard(lead, own, rank=rank, world_size=world_size)


def _rank_state(rank: int, manifest: Manifest, cache: ShardCache) -> Any:
    tensors = read_tensors(manifest, cache.read, prefix=rank_prefix(rank))
    return join(manifest.rank_plain[rank], tensors)
