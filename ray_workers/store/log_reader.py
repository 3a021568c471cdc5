"""Reading the commit log: slots, damage, holes, fold caches (FORMAT.md §5, §8). Nothing here writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from ray_workers.store import keys
from ray_workers.store.errors import MalformedObjectError, ObjectNotFoundError
from ray_workers.store.fold import apply_damaged, apply_record
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record, canonical_json
from ray_workers.store.run_state import FOLD_VERSION, RunState

__all__ = ["DAMAGED", "LogReader", "Slot", "encode_cache"]


class _Damaged:
    """The slot is taken by bytes that are no valid record."""


DAMAGED = _Damaged()
Slot = Record | _Damaged | None
"""What stands in a slot; None: nothing."""

_READERS = 16
_WIDEST_GAP = 10_000


class LogReader:
    """Folds one run's log. Reads only, so it needs no more than GET and LIST."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._run = keys.check_run_name(run)

    def read(self, slot: int) -> Slot:
        """What stands in `slot`. A bad digest counts only when it is seen on two reads."""
        key = keys.log_key(self._run, slot)
        for last_try in (False, True):
            try:
                return Record.from_bytes(self._store.get(key), key=key, slot=slot)
            except ObjectNotFoundError:
                return None
            except MalformedObjectError:
                if last_try:
                    return DAMAGED
        return DAMAGED

    def fold(self, *, use_cache: bool = True) -> RunState:
        """The state of the whole log. `use_cache` False folds raw records only, as whoever deletes must."""
        cached = self._best_cache() if use_cache else None
        state = cached or RunState(run=self._run)
        listed = self._listed(after=state.slot)
        self._fold_known(
            state, self.read_many(range(state.slot + 1, _last_near(listed, state.slot) + 1))
        )
        self.advance(state)
        self._fold_lost_tail(state)
        return state

    def advance(self, state: RunState) -> None:
        """Fold on from the tail, one GET a slot, until a slot is free."""
        while (slot := self.read(state.slot + 1)) is not None:
            _fold_slot(state, slot)

    def read_many(self, slots: Iterable[int]) -> list[Slot]:
        wanted = list(slots)
        if not wanted:
            return []
        with ThreadPoolExecutor(min(_READERS, len(wanted))) as pool:
            return list(pool.map(self.read, wanted))

    def _listed(self, *, after: int) -> list[int]:
        start = keys.log_key(self._run, after)
        found = (
            keys.parse_log_key(info.key)
            for info in self._store.list(keys.log_prefix(self._run), after=start)
        )
        return [slot for slot in found if slot is not None]

    def _fold_known(self, state: RunState, slots: list[Slot]) -> None:
        """Fold what the listing named.

        An absent slot is a hole only below a slot of the same run. Above the tail there may be slots of a run that was
        wiped by hand: no concern of ours until we reach them.
        """
        for index, slot in enumerate(slots):
            if slot is not None:
                _fold_slot(state, slot)
            elif _own_above(state, slots[index + 1 :]):
                apply_damaged(state)
            else:
                return

    def _best_cache(self) -> RunState | None:
        infos = self._store.list(keys.folds_prefix(self._run))
        named = sorted((p for info in infos if (p := keys.parse_fold_key(info.key))), reverse=True)
        for slot, head in named:
            state = self._read_cache(slot, head)
            if state is not None and self._continues(slot, head):
                return state
        return None

    def _read_cache(self, slot: int, head: str) -> RunState | None:
        """The cached state, or None when anything about it is off: a cache is never an error."""
        try:
            raw = json.loads(self._store.get(keys.fold_key(self._run, slot, head)))
            digest = raw.pop("digest")
            if hashlib.sha256(canonical_json(raw)).hexdigest() != digest:
                return None
            if raw["fold_version"] != FOLD_VERSION or (raw["slot"], raw["head"]) != (slot, head):
                return None
            state = RunState.from_json(raw["state"])
        except (
            ObjectNotFoundError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ):
            return None
        agrees = (state.run, state.slot, state.head) == (self._run, slot, head)
        return state if agrees else None

    def _continues(self, slot: int, head: str) -> bool:
        here = self.read(slot)
        if isinstance(here, Record) and here.digest == head:
            return True
        above = self.read(slot + 1)
        return isinstance(above, Record) and above.prev == head

    def _fold_lost_tail(self, state: RunState) -> None:
        """A cache of this run beyond the tail proves that slots were lost: they are holes (FORMAT.md §8)."""
        if state.run_id is None:
            return
        infos = self._store.list(
            keys.folds_prefix(self._run), after=keys.fold_key(self._run, state.slot + 1, "")
        )
        beyond = [p for info in infos if (p := keys.parse_fold_key(info.key)) and p[0] > state.slot]
        for slot, head in sorted(beyond, reverse=True):
            cached = self._read_cache(slot, head)
            if cached is not None and cached.run_id == state.run_id:
                while state.slot < slot:
                    apply_damaged(state)
                self.advance(state)
                return


def encode_cache(state: RunState) -> bytes:
    """The bytes of a fold cache of `state`."""
    content = {
        "fold_version": FOLD_VERSION,
        "slot": state.slot,
        "head": state.head,
        "state": state.to_json(),
    }
    digest = hashlib.sha256(canonical_json(content)).hexdigest()
    return canonical_json({**content, "digest": digest})


def _last_near(listed: list[int], slot: int) -> int:
    """The last listed slot that is no stray: what lies far beyond all others was not written by this log."""
    last = slot
    for found in sorted(listed):
        if found > last + _WIDEST_GAP:
            break
        last = max(last, found)
    return last


def _fold_slot(state: RunState, slot: Record | _Damaged) -> None:
    if isinstance(slot, Record):
        apply_record(state, slot)
    else:
        apply_damaged(state)


def _own_above(state: RunState, slots: list[Slot]) -> bool:
    return state.run_id is not None and any(
        isinstance(slot, Record) and slot.run_id == state.run_id for slot in slots
    )
