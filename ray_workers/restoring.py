"""Bringing a version back into a training process: every byte verified before any of it is used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import Buffer

from ray_workers.hot_shards import HotShards
from ray_workers.messages import ResumePoint
from ray_workers.node_shards import NodeShards, replicated_shards
from ray_workers.planners import SHARED_PREFIX, rank_prefix
from ray_workers.resharding import check_worker_count, reshard, sources
from ray_workers.shard_reading import empty_tensor, stored_layouts
from ray_workers.staging_files import StagingFolder
from ray_workers.state_join import join
from ray_workers.store.errors import StateMismatchError
from ray_workers.store.fetch import StoredRanges
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.shard_filling import WHOLE_BYTES, Places, fill_from, fill_shard
from ray_workers.store.shards import ShardEntry, read_shard
from ray_workers.store.versions import manifest_at
from ray_workers.tensor_filling import fill_tensors
from ray_workers.training_state import TrainingParts, restore_by

__all__ = [
    "SHARED",
    "RankRestore",
    "ShardCache",
    "check_payload",
    "read_manifest",
    "restore_state",
]

SHARED = SHARED_PREFIX

_log = logging.getLogger("pawl.restore")


def read_manifest(store: ObjectStore, point: ResumePoint) -> Manifest:
    """The manifest of `point`. Raises as `store.versions.load_manifest`."""
    return manifest_at(store, point.manifest_key, point.name.manifest)


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
    node: NodeShards | None
    _staging: StagingFolder | None
    _read: dict[str, Buffer]

    def __init__(self, store: ObjectStore, staging: StagingFolder | None = None) -> None:
        self.store = store
        self.hot = None if staging is None else HotShards(staging)
        self.node = None
        self._staging = staging
        self._read = {}

    def share(self, shared: Mapping[str, ShardEntry]) -> None:
        """From now on read these, by key, once for all ranks of this node; without a staging folder each reads its own."""
        # The system keeps files of a local folder in memory for all of them.
        if self._staging is not None and self.store.kind != "local":
            self.node = NodeShards(self._staging, self.store, shared)

    def read(self, entry: ShardEntry) -> Buffer:
        if entry.key not in self._read:
            held = None if self.hot is None else self.hot.read(entry)
            self._read[entry.key] = read_shard(self.store, entry) if held is None else held
        return self._read[entry.key]

    def fill(self, entry: ShardEntry, places: Places) -> None:
        """As `read`, straight to where the tensors belong; a large shard is held nowhere else then."""
        if entry.bytes <= WHOLE_BYTES or entry.key in self._read:
            fill_from(memoryview(self.read(entry)), entry, places)
        elif (self.hot is None or not self.hot.fill(entry, places)) and (
            self.node is None or not self.node.fill(entry, places)
        ):
            fill_shard(StoredRanges(self.store, entry.key), entry, places)

    def tell(self, manifest: Manifest) -> None:
        """Say how much came from memory, if anything did."""
        whole = sum(entry.bytes for entry in manifest.shards) / 1e6
        hot = 0 if self.hot is None else self.hot.bytes_found / 1e6
        shared = 0 if self.node is None else self.node.bytes_taken / 1e6
        if hot:
            _log.info("%.1f MB of the version's %.1f MB came from this node's memory", hot, whole)
        if shared:
            _log.info(
                "%.1f MB of the version's %.1f MB were read by other ranks of this node",
                shared,
                whole,
            )


@dataclass(frozen=True, slots=True)
class RankRestore:
    """The state that a rank alone saved: RNG, data position, metric series; by `rule` also for other ranks.

    Raises, when made: `StateMismatchError`: the version was saved by another number of workers, and `rule` is not
    `reshard`.
    """

    rank: int
    world_size: int
    manifest: Manifest
    rule: str = "refuse"

    def __post_init__(self) -> None:
        check_worker_count(self.manifest.world_size, self.world_size, self.rule)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Below which what it needs is stored."""
        return tuple(dict.fromkeys(map(rank_prefix, self._sources)))

    def templates(self) -> dict[str, torch.Tensor]:
        """Memory for it, not filled."""
        return {
            path: empty_tensor(layout)
            for prefix in self.prefixes
            for path, layout in stored_layouts(self.manifest, prefix).items()
        }

    def join(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """The state, from the templates when they are filled."""
        lead, own = (join(self.manifest.rank_plain[source], tensors) for source in self._sources)
        if self.manifest.world_size == self.world_size:
            return own
        return reshard(lead, own, rank=self.rank, world_size=self.world_size)

    @property
    def _sources(self) -> tuple[int, int]:
        saved = self.manifest.world_size
        return (self.rank, self.rank) if saved == self.world_size else sources(self.rank, saved)


def restore_state(
    parts: TrainingParts,
    manifest: Manifest,
    cache: ShardCache,
    rank: RankRestore,
    place: tuple[int, int] = (0, 1),
) -> Any:
    """Put a version's state into `parts`, each shard read once, straight into their tensors.

    Args:
        parts: what takes it.
        manifest: of the version.
        cache: reads the shards.
        rank: what of it is this rank's.
        place: the rank's number on its node, and how many there are: what all of them need one of them reads.

    Returns:
        What the rank alone had.

    Raises:
        StateMismatchError: the state does not fit; nothing was changed.
        DamageError, ObjectNotFoundError: the parts hold anything by then: restore another version into them, or end.
    """
    own = rank.templates()

    def load(shared: dict[str, torch.Tensor]) -> None:
        here, ranks = place
        if ranks > 1:
            cache.share(replicated_shards(manifest, shared))
        template, prefixes = {**shared, **own}, (SHARED, *rank.prefixes)
        fill_tensors(template, manifest, cache.fill, prefixes=prefixes, begin=here / ranks)

    restore_by(parts, manifest, load)
    return rank.join(own)
