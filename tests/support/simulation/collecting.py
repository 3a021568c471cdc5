"""Who deletes: the store's own sweeper, and beside it one written after FORMAT.md §15 in as few lines as can be.

The short one deletes whatever the format allows at once, and a guard is easily taken out of it. Both may run in any
number of processes, and take no lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ray_workers.store import keys
from ray_workers.store.bodies import Body, Condemn, Swept
from ray_workers.store.errors import (
    DamageError,
    MissingError,
    ObjectNotFoundError,
    RuleRefusedError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.sweep import sweep
from ray_workers.store.versions import load_manifest
from tests.support.simulation.programs import RUN
from tests.support.simulation.told import Told

__all__ = ["collects", "deletable", "is_closed", "sweeps"]


@dataclass(frozen=True, slots=True)
class Plan:
    shards: tuple[str, ...]
    manifests: tuple[str, ...]


def sweeps(store: ObjectStore, told: Told, *, run: str = RUN) -> None:
    """The store's own sweeper, without a grace period."""
    sweep(store, run, by={}, grace_s=0.0)


def collects(store: ObjectStore, told: Told, *, run: str = RUN) -> None:
    """Condemn what is retired and not protected, delete what may be deleted, say that it is swept."""
    state = _raw(store, run)
    if _refuses(state) or _kept_keys(store, state) is None:
        return
    log = log_of_a_sweeper(store, run)
    log.append(_condemn)
    state = _raw(store, run)
    plan = deletable(store, state)
    if plan is None:
        return
    for key in (*plan.shards, *plan.manifests):
        store.delete(key)
    gone = _gone(store, state, plan)
    try:
        log.append(lambda _: _swept(log.refresh(), gone))
    except RuleRefusedError:
        return  # a deleted run takes no more records


def _condemn(state: RunState) -> Body | None:
    protected = state.protected()
    doomed = tuple(
        v.name
        for v in state.versions.values()
        if v.status == "retired" and v.number not in protected
    )
    return Condemn(versions=doomed) if doomed else None


def _swept(state: RunState, gone: set[int]) -> Body | None:
    doomed = tuple(
        v.name for v in state.versions.values() if v.status == "condemned" and v.number in gone
    )
    return Swept(versions=doomed) if doomed else None


def deletable(store: ObjectStore, state: RunState) -> Plan | None:
    """What may be deleted on this fold; None: nothing, because something cannot be known."""
    kept = _kept_keys(store, state)
    if kept is None or _refuses(state):
        return None
    given_up = _named_by(store, state, (v for v in state.versions.values() if not v.readable))
    listed = [
        info.key
        for folder in ("manifests", "shards")
        for info in store.list(f"{keys.run_prefix(state.run)}{folder}/")
    ]
    wanted = [k for k in listed if k not in kept and (k in given_up or is_closed(state, k))]
    shards = tuple(key for key in wanted if "/shards/" in key)
    return Plan(shards, tuple(key for key in wanted if "/manifests/" in key))


def is_closed(state: RunState, key: str) -> bool:
    """Whether the fence in `key` can never commit again."""
    named = keys.data_fence(key)
    return named is not None and named.fence <= state.slot and named.fence != state.open_fence


def log_of_a_sweeper(store: ObjectStore, run: str) -> RunLog:
    """Folded without caches: whoever wrote one may not have seen a record that was damaged as it was stored."""
    return RunLog(store, run, by={}, raw=True)


def _raw(store: ObjectStore, run: str) -> RunState:
    return LogReader(store, run).fold(use_cache=False)


def _refuses(state: RunState) -> bool:
    return bool(state.unknown or state.unrepaired)


def _kept_keys(store: ObjectStore, state: RunState) -> set[str] | None:
    """Every key that a version that is not given up needs; None if one of their manifests cannot be read."""
    found: set[str] = set()
    for version in state.versions.values():
        if version.readable:
            try:
                found |= _keys_of(store, state.run, version)
            except (DamageError, MissingError):
                return None
    return found


def _named_by(store: ObjectStore, state: RunState, versions: Iterable[VersionState]) -> set[str]:
    found: set[str] = set()
    for version in versions:
        try:
            found |= _keys_of(store, state.run, version)
        except (DamageError, MissingError):
            continue  # its shards were done before its manifest, or go with their fence
    return found


def _keys_of(store: ObjectStore, run: str, version: VersionState) -> set[str]:
    shards = {entry.key for entry in load_manifest(store, run, version).shards}
    return {keys.manifest_key(run, version.fence, version.manifest), *shards}


def _gone(store: ObjectStore, state: RunState, plan: Plan) -> set[int]:
    """Condemned versions whose manifest is absent."""
    return {
        v.number
        for v in state.versions.values()
        if v.status == "condemned" and not _is_there(store, state.run, v)
    }


def _is_there(store: ObjectStore, run: str, version: VersionState) -> bool:
    try:
        store.head(keys.manifest_key(run, version.fence, version.manifest))
    except ObjectNotFoundError:
        return False
    return True
