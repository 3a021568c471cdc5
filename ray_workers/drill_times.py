"""How long restores of a run really took: the drills in its log. Reads only."""

from __future__ import annotations

from collections.abc import Iterator

from ray_workers.store.bodies import Verdict
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record
from ray_workers.store.run_state import RunState

__all__ = ["drill_seconds"]


def drill_seconds(store: ObjectStore, state: RunState) -> tuple[float, ...]:
    """Seconds that each restore drill took that passed, oldest first; only logs that name one are read again."""
    if not any("restorable" in v.passed for v in state.versions.values()):
        return ()
    return tuple(_told(store, state))


def _told(store: ObjectStore, state: RunState) -> Iterator[float]:
    for slot in LogReader(store, state.run).read_many(range(1, state.slot + 1)):
        body = slot.body if isinstance(slot, Record) else None
        if isinstance(body, Verdict) and body.check == "restorable" and body.passed:
            seconds = body.evidence.get("seconds")
            if isinstance(seconds, int | float) and not isinstance(seconds, bool):
                yield float(seconds)
