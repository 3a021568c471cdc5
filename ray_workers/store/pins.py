"""Pins of forks: let go of once the fork is over, so that its origin can be retired and deleted (FORMAT.md §6 Forks).

Whoever deletes a fork releases its pin. If that did not happen, the next sweep or delete of the origin makes up for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_workers.store.bodies import ForkReleased, RunDeleted
from ray_workers.store.errors import PawlError
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record
from ray_workers.store.run_state import PinState, RunState

__all__ = ["release_own_pin", "release_pin", "release_pins_let_go"]

_PATIENCE_S = 120.0


def release_pin(
    store: ObjectStore, origin: str, child_run_id: str, *, by: Mapping[str, Any]
) -> None:
    """Append ForkReleased to the origin's log, if that run still holds the pin. The caller has seen that it may.

    Raises:
        StoreUnavailableError, StoreRefusedError, NewerFormatError: the pin may still be there.
    """
    log = RunLog(store, origin, by=by, patience_s=_PATIENCE_S)

    def decide(state: RunState) -> ForkReleased | None:
        pin = state.pins.get(child_run_id)
        version = None if pin is None else state.versions.get(pin.version)
        if pin is None or version is None or not state.exists:
            return None
        return ForkReleased(child=pin.child, child_run_id=child_run_id, version=version.name)

    log.append(decide)


def release_own_pin(store: ObjectStore, child: RunState, *, by: Mapping[str, Any]) -> None:
    """Let go of what a run that was just deleted was forked from. Never fails: the origin's next sweep makes up for it.

    Args:
        store: where both runs live.
        child: its state, RunDeleted included.
        by: who deletes.
    """
    if child.origin is None or child.run_id is None or not child.deleted:
        return
    try:
        release_pin(store, child.origin.run, child.run_id, by=by)
    except PawlError:
        return


def release_pins_let_go(store: ObjectStore, origin: RunState, *, by: Mapping[str, Any]) -> bool:
    """Release the pins of forks that are over; whether there were any.

    A fork whose log cannot be read keeps its pin.

    Raises:
        StoreUnavailableError, StoreRefusedError: the origin's log does not let us append.
    """
    if origin.unknown or not origin.exists:
        return False
    over = [pin for pin in origin.pins.values() if _is_over(store, pin)]
    for pin in over:
        release_pin(store, origin.run, pin.child_run_id, by=by)
    return bool(over)


def _is_over(store: ObjectStore, pin: PinState) -> bool:
    try:
        reader = LogReader(store, pin.child)
        # A cache may say that the fork lives, which is the usual case and costs nothing. Only raw records may end it.
        return _has_let_go(reader, reader.fold(), pin) and _has_let_go(
            reader, reader.fold(use_cache=False), pin
        )
    except PawlError:
        return False


def _has_let_go(reader: LogReader, child: RunState, pin: PinState) -> bool:
    """Whether the child's log shows that the fork is deleted, or that its name was taken by another run."""
    if child.run_id == pin.child_run_id:
        return child.deleted
    if child.run_id is None or child.exists:
        return child.exists
    # Another run had the name and is deleted. If it came first, the fork may still be about to take the name over.
    found = reader.read_many(range(1, child.slot + 1))
    return any(
        isinstance(record, Record)
        and record.kind == RunDeleted.kind
        and record.run_id == pin.child_run_id
        for record in found
    )
