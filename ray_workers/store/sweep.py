"""Garbage collection of one run: grace, condemn, delete, swept (FORMAT.md §15).

Any number of sweepers may run at once, stall, die and repeat: what may be deleted once may be deleted for ever. No age
is a licence. The grace period is for people, and for readers that hold no protection; no safety rests on it.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ray_workers.store import keys
from ray_workers.store.bodies import Condemn, RunDeleted, Swept, VersionName
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.errors import (
    ObjectNotFoundError,
    PawlError,
    RunNotFoundError,
    StoreRefusedError,
)
from ray_workers.store.leftovers import remove_leftover
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.pins import release_own_pin, release_pins_let_go
from ray_workers.store.probe import PROBE_PREFIX
from ray_workers.store.run_state import RunState
from ray_workers.store.sweep_plan import Doomed, SweepPlan, SweepReader

__all__ = ["DEFAULT_GRACE_S", "SweepReport", "delete_run", "plan_sweep", "sweep"]

DEFAULT_GRACE_S = 24 * 3600.0
_BATCH = 200
_AT_ONCE = 8
_PATIENCE_S = 120.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    run: str
    plan: SweepPlan
    """What was to be done when the sweep began."""
    condemned: tuple[int, ...] = ()
    swept: tuple[int, ...] = ()
    """Versions of which nothing is left."""
    deleted: int = 0
    """Objects and leftovers."""
    bytes_deleted: Mapping[str, int] = field(default_factory=dict)
    """By `Doomed.what`."""

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names."""
        return {
            **self.plan.to_json(),
            "condemned": list(self.condemned),
            "swept": list(self.swept),
            "deleted": self.deleted,
            "bytes_deleted": sum(self.bytes_deleted.values()),
            "bytes_deleted_by_kind": dict(self.bytes_deleted),
        }


def plan_sweep(
    store: ObjectStore, run: str, *, grace_s: float = DEFAULT_GRACE_S, tell: Tell = lambda _: None
) -> SweepPlan:
    """What `sweep` would do now. Writes nothing, so the time is taken from this machine and not from the store.

    Raises:
        RunNotFoundError: there is no such run.
        StoreUnavailableError, StoreRefusedError: the store does not let us read.
    """
    state = _raw(store, run)
    return _plan(store, SweepReader(store, run), state, grace_s, epoch_seconds(), tell)


def sweep(
    store: ObjectStore,
    run: str,
    *,
    by: Mapping[str, Any],
    grace_s: float = DEFAULT_GRACE_S,
    tell: Tell = lambda _: None,
) -> SweepReport:
    """Condemn what was retired for longer than the grace period, delete what nothing needs, and say so in the log.

    May be repeated, run beside live attempts and other sweepers, and be cut off anywhere.

    Args:
        store: where the run lives; the credentials must allow deletes below `manifests/` and `shards/`.
        run: its name.
        by: who sweeps.
        grace_s: for how long a version stays retired, by the store's own clock.
        tell: progress, for people.

    Raises:
        RunNotFoundError: there is no such run.
        StoreUnavailableError, StoreRefusedError: the store does not let us; what was done stays done.
    """
    reader = SweepReader(store, run)
    log = _raw_log(store, run, by)
    if release_pins_let_go(store, log.state, by=by):
        log.refresh()
    plan = _plan(store, reader, log.state, grace_s, _store_clock(store), tell)
    if plan.blocked is not None:
        return SweepReport(run=run, plan=plan)
    condemned = _condemn(log, reader, plan.condemn)
    # Folded on: whoever could use a condemned version as its base committed below its Condemn. Our own Condemn is read
    # back with all below it: rotten as it was stored, it is a licence that nobody else sees.
    state = _raw(store, run) if condemned else log.refresh()
    blocked = reader.blocked(state)
    if blocked is not None:
        return SweepReport(run=run, plan=plan, condemned=condemned)
    doomed = reader.doomed(state)
    _delete(store, doomed, tell)
    sums: dict[str, int] = {}
    for item in doomed:
        sums[item.what] = sums.get(item.what, 0) + item.bytes
    return SweepReport(
        run=run,
        plan=plan,
        condemned=condemned,
        swept=_record_swept(store, log, reader, state, doomed),
        deleted=len(doomed),
        bytes_deleted=sums,
    )


def delete_run(store: ObjectStore, run: str, *, by: Mapping[str, Any]) -> None:
    """Give the whole run up: its fence is closed, and a sweep may take all of it. Its log stays.

    If it was a fork, its origin need not keep the version any more that it began from.

    Raises:
        RuleRefusedError: a fork still starts from it, or it is deleted already.
        RunNotFoundError: there is no such run.
    """
    log = _raw_log(store, run, by)
    release_pins_let_go(store, log.state, by=by)
    log.append(lambda _: RunDeleted())
    release_own_pin(store, log.state, by=by)


def _raw(store: ObjectStore, run: str) -> RunState:
    return _found(store, LogReader(store, run).fold(use_cache=False))


def _raw_log(store: ObjectStore, run: str, by: Mapping[str, Any]) -> RunLog:
    log = RunLog(store, run, by=by, patience_s=_PATIENCE_S, raw=True)
    _found(store, log.state)
    return log


def _found(store: ObjectStore, state: RunState) -> RunState:
    if state.slot == 0:
        raise RunNotFoundError(f"There is no run {state.run!r} at {store.url}.")
    return state


def _plan(
    store: ObjectStore, reader: SweepReader, state: RunState, grace_s: float, now: float, tell: Tell
) -> SweepPlan:
    tell(f"reading the log and the manifests of {state.run}")
    protected = state.protected()
    retired = [v for v in state.newest_first() if v.status == "retired"]
    free = [v for v in retired if v.number not in protected]
    left = {v.number: grace_s - _retired_for(store, state, v.number, now) for v in free}
    condemn = tuple(sorted(number for number, seconds in left.items() if seconds <= 0))
    blocked = reader.blocked(state, condemned=frozenset(condemn))
    return SweepPlan(
        run=state.run,
        condemn=() if blocked else condemn,
        waiting={number: seconds for number, seconds in left.items() if seconds > 0},
        protected={v.number: protected[v.number] for v in retired if v.number in protected},
        doomed=() if blocked else reader.doomed(state, condemned=frozenset(condemn)),
        blocked=blocked,
    )


def _retired_for(store: ObjectStore, state: RunState, number: int, now: float) -> float:
    """Seconds since the version was retired, by the store's clock; 0 when its record has no time."""
    slot = state.versions[number].retired_slot
    if slot is None:
        return 0.0
    try:
        return now - store.head(keys.log_key(state.run, slot)).modified
    except ObjectNotFoundError:
        return 0.0


def _store_clock(store: ObjectStore) -> float:
    """The store's own time, from an object just made: clocks of two machines are never compared."""
    key = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json"
    store.put(key, uuid.uuid4().hex.encode())
    now = store.head(key).modified
    with contextlib.suppress(PawlError):
        store.delete(key)
    return now


def _condemn(log: RunLog, reader: SweepReader, wanted: tuple[int, ...]) -> tuple[int, ...]:
    condemned: list[int] = []
    for batch in _batches(wanted):

        def decide(state: RunState, batch: tuple[int, ...] = batch) -> Condemn | None:
            # Asked again on every newer state: a version may have been tagged, resumed from or pinned meanwhile.
            protected = state.protected()
            names = tuple(
                state.versions[number].name
                for number in batch
                if number in state.versions
                and state.versions[number].status == "retired"
                and number not in protected
            )
            given_up = frozenset(name.number for name in names)
            if not names or reader.blocked(state, condemned=given_up) is not None:
                return None
            return Condemn(versions=names)

        record = log.append(decide)
        if record is not None and isinstance(record.body, Condemn):
            condemned += [name.number for name in record.body.versions]
    return tuple(condemned)


def _delete(store: ObjectStore, doomed: tuple[Doomed, ...], tell: Tell) -> None:
    """Shards first, then manifests: a manifest that is gone says that its shards are."""
    manifests = [item for item in doomed if "/manifests/" in item.key]
    others = [item for item in doomed if "/manifests/" not in item.key]
    for group, name in ((others, "shards"), (manifests, "manifests")):
        if group:
            tell(f"deleting {len(group)} {name} ({sum(item.bytes for item in group)} bytes)")
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda item: _delete_one(store, item), group))


def _delete_one(store: ObjectStore, item: Doomed) -> None:
    if item.leftover is not None:
        remove_leftover(store, item.leftover)
    else:
        store.delete(item.key)


def _record_swept(
    store: ObjectStore,
    log: RunLog,
    reader: SweepReader,
    state: RunState,
    doomed: tuple[Doomed, ...],
) -> tuple[int, ...]:
    """Append Swept for condemned versions of which every key answers absent."""
    left = {
        item.version for item in doomed if item.version is not None and not _is_absent(store, item)
    }
    done = tuple(
        version.number
        for version in state.versions.values()
        if version.status == "condemned"
        and version.number not in left
        and not reader.waits_for_its_fence(state, version)
    )
    swept: list[int] = []
    for batch in _batches(done):

        def decide(now: RunState, batch: tuple[int, ...] = batch) -> Swept | None:
            names: tuple[VersionName, ...] = tuple(
                now.versions[number].name
                for number in batch
                if number in now.versions and now.versions[number].status == "condemned"
            )
            return Swept(versions=names) if names else None

        record = log.append(decide)
        if record is not None and isinstance(record.body, Swept):
            swept += [name.number for name in record.body.versions]
    return tuple(swept)


def _is_absent(store: ObjectStore, item: Doomed) -> bool:
    try:
        store.head(item.key)
    except ObjectNotFoundError:
        return True
    except StoreRefusedError:
        return False
    return False


def _batches(numbers: Iterable[int]) -> list[tuple[int, ...]]:
    every = tuple(numbers)
    return [every[start : start + _BATCH] for start in range(0, len(every), _BATCH)]
