"""Bringing a version back into a training process: every byte verified before any of it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import Buffer

from ray_workers.messages import ResumePoint
from ray_workers.planners import SHARED_PREFIX
from ray_workers.resharding import check_worker_count, reshard, sources
from ray_workers.shard_reading import read_tensors
from ray_workers.state_join import join
from ray_workers.store.errors import DigestMismatchError, StateMismatchError
from ray_workers.store.manifest import Manifest, check_coverage
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.shards import ShardEntry, read_shard

__all__ = ["SHARED", "ShardCache", "check_payload", "rank_prefix", "read_manifest", "restore_rank"]

SHARED = SHARED_PREFIX


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
    """Verified shards, each read once while a restore lasts."""

    store: ObjectStore
    _read: dict[str, Buffer]

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._read = {}

    def read(self, entry: ShardEntry) -> Buffer:
        if entry.key not in self._read:
            self._read[entry.key] = read_shard(self.store, entry)
        return self._read[entry.key]


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
