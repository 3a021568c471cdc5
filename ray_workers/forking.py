"""Forks: the pin in the origin's log first, the child second, and the way back from either (FORMAT.md §6 Forks)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_workers.store import keys
from ray_workers.store.attempts import read_run, run_names
from ray_workers.store.bodies import ForkPin, RunOrigin
from ray_workers.store.errors import RunNotFoundError, VersionNotFoundError
from ray_workers.store.log import RunLog
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.pins import release_pin
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.versions import best_version, find_version

__all__ = ["PinnedFork", "check_usable", "origin_of", "pin_origin", "release_if_beaten"]

_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFork:
    """A fork whose origin is pinned and which may not exist yet."""

    origin: RunOrigin
    child: str
    child_run_id: str


def pin_origin(
    store: ObjectStore, child: str, *, run: str, version: str, by: Mapping[str, Any]
) -> PinnedFork:
    """Pin the version that `child` is to begin from; only then may the child be created.

    Raises:
        RunNotFoundError, VersionNotFoundError: the origin is not there, or not to be had.
    """
    log = RunLog(store, run, by=by, patience_s=_PATIENCE_S)
    state = log.state
    if not state.exists:
        raise RunNotFoundError(f"There is no run {run!r} at {store.url} to fork from.")
    chosen = find_version(state, version, best=best_version(store, run))
    check_usable(run, chosen)
    child_id = uuid.uuid4().hex
    log.append(lambda _: ForkPin(child=child, child_run_id=child_id, version=chosen.name))
    origin = RunOrigin(run=run, run_id=str(state.run_id), version=chosen.name)
    return PinnedFork(origin=origin, child=child, child_run_id=child_id)


def release_if_beaten(
    store: ObjectStore, fork: PinnedFork, child: RunState, by: Mapping[str, Any]
) -> None:
    """Let go of a pin whose child never came to be: another run holds the name (FORMAT.md §6, rule 12).

    Nothing is released while the child's log could still become ours: a run that exists under another id took the slot
    that our own RunCreated was sent to.
    """
    if not child.exists or child.run_id == fork.child_run_id:
        return
    release_pin(store, fork.origin.run, fork.child_run_id, by=by)


def origin_of(store: ObjectStore, state: RunState) -> RunOrigin | None:
    """What a run was forked from; None if from nothing.

    It stands in the record that created the run. When that one is damaged, the pin in the origin's log says the same,
    so a fork never starts from nothing because one record rotted.
    """
    if state.created_at is not None or state.run_id is None:
        return state.origin
    for name in run_names(store):
        if name == state.run or not keys.is_run_name(name):
            continue
        other = read_run(store, name)
        pin = other.pins.get(state.run_id)
        version = None if pin is None else other.versions.get(pin.version)
        if version is not None:
            return RunOrigin(run=name, run_id=str(other.run_id), version=version.name)
    return None


def check_usable(run: str, version: VersionState) -> None:
    """Raise `VersionNotFoundError` unless a run may begin from `version`, or go back to it."""
    if version.quarantine is not None:
        raise VersionNotFoundError(
            f"Version {version.number} of run {run!r} is quarantined ({version.quarantine}); choose another."
        )
    if not version.readable:
        raise VersionNotFoundError(
            f"Version {version.number} of run {run!r} is {version.status}: its bytes are not kept any more."
        )
