"""An attempt's start in a worker: every rank restores the same version, or all of them leave it together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_workers.context import TrainingContext
from ray_workers.decisions import DecisionChannel
from ray_workers.directory import unpack_directory
from ray_workers.environment import warn_about_changes
from ray_workers.falling_back import BadRead, next_point
from ray_workers.messages import ResumePoint
from ray_workers.restoring import (
    RankRestore,
    ShardCache,
    check_payload,
    read_manifest,
    restore_state,
)
from ray_workers.store.errors import DamageError, ObjectNotFoundError
from ray_workers.store.manifest import Manifest, Progress
from ray_workers.training_state import TrainingParts

__all__ = ["Restored", "come_back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What came back beside the parts, which hold their state already."""

    point: ResumePoint
    """The version in the end; not the one chosen at first when that one failed."""
    manifest: Manifest
    own: Any = None
    """What this rank had alone; None when the version holds a directory."""
    directory: Path | None = None

    @property
    def progress(self) -> Progress:
        return self.manifest.progress


def come_back(
    context: TrainingContext,
    channel: DecisionChannel,
    parts: TrainingParts | None,
    point: ResumePoint,
) -> Restored:
    """Restore `point` into `parts`, or what is chosen instead if any rank fails to; called by all ranks together.

    Raises:
        DamageError: no version can be restored; in a drill, the one that is drilled.
        TrainingFailedError: a rank cannot read a version whose bytes hold elsewhere.
        RefusedError: the versions that are left could not be brought to the required rung.
        StateMismatchError: the stored state does not fit the parts.
    """
    while True:
        restored, problem = None, None
        try:
            restored = _restore(context, parts, point)
        except (DamageError, ObjectNotFoundError) as error:
            problem = BadRead.here(context, error.message).spell()
        told = channel.any_failed(problem)
        if context.staging is not None:
            context.staging.remove_shared()  # by now all have taken it
        if told is None and restored is not None:
            if context.rank == 0:
                warn_about_changes(restored.manifest.environment)
            return restored
        met = BadRead.read(str(told))
        if context.drill:
            raise DamageError(met.problem)  # a drill quarantines nothing and chooses nothing itself
        point = next_point(context, channel, point, met)


def _restore(context: TrainingContext, parts: TrainingParts | None, point: ResumePoint) -> Restored:
    store = context.storage.open().store
    manifest = read_manifest(store, point)
    cache = ShardCache(store, context.staging)
    check_payload(manifest, point, has_model=parts is not None)
    own, directory = None, None
    if parts is None:
        directory = unpack_directory(manifest, cache.read)
    else:
        rule = context.on_changed_workers
        rank = RankRestore(context.rank, context.world_size, manifest, rule)
        own = restore_state(parts, manifest, cache, rank, context.place)
    cache.tell(manifest)
    return Restored(point=point, manifest=manifest, own=own, directory=directory)
