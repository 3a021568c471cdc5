"""Reading the commit log: slots, damage, holes, fold caches (FORMAT.md §5, §8). Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable

from ray_workers.store import keys
from ray_workers.store.bodies import Filler
from ray_workers.store.errors import ObjectNotFoundError
from ray_workers.store.fold import apply_damaged, apply_record, is_contradiction
from ray_workers.store.fold_cache import MAX_CACHE_BYTES, decode_cache
from ray_workers.store.log_slots import DAMAGED, LogSlots, Slot
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record
from ray_workers.store.run_state import RunState

__all__ = ["DAMAGED", "LogReader", "Slot"]

_WIDEST_GAP = 10_000


class LogReader:
    """Folds one run's log. Reads only, so it needs no more than GET and LIST."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._run = keys.check_run_name(run)
        self._effective: list[Record] = []
        self.cache_slot = 0
        """Where the newest cache that was used ends; 0: none was."""

    def read(self, slot: int) -> Slot:
        """What stands in `slot`. A bad digest counts only when it is seen on two reads."""
        return self._slots().read(slot)

    def read_many(self, slots: Iterable[int]) -> list[Slot]:
        return self._slots().read_many(slots)

    def fold(self, *, use_cache: bool = True) -> RunState:
        """The state of the whole log. `use_cache` False folds raw records only, as whoever deletes must."""
        state = self._fold(use_cache=use_cache)
        self._effective = []
        return state

    def advance(self, state: RunState) -> list[Record]:
        """Fold on from the tail, one GET a slot, until a slot is free; the records that took effect meanwhile."""
        self._effective = []
        self._walk(state, self._slots())
        return self._effective

    def _slots(self, wanted: Iterable[int] = ()) -> LogSlots:
        return LogSlots(self._store, self._run, wanted)

    def _fold(self, *, use_cache: bool) -> RunState:
        state = (self._best_cache() if use_cache else None) or RunState(run=self._run)
        self.cache_slot = state.slot
        listed = self._listed(after=state.slot)
        self._walk(state, self._slots(_near(listed, state.slot)))
        self._fold_lost_tail(state)
        return state

    def _walk(self, state: RunState, slots: LogSlots, *, lost_until: int = 0) -> None:
        """Fold slot by slot until one is free that is no hole.

        An absent slot is a hole only below a slot of the same run, or below a witness of slots that were lost. Above
        the tail there may be slots of a run that was wiped by hand, and strays: no concern of ours until we reach them.
        """
        began = state.slot
        while True:
            slot = slots.at(state.slot + 1)
            if slot is None and state.slot >= lost_until and not _own_above(state, slots):
                return
            if isinstance(slot, Record) and is_contradiction(state, slot) and began:
                # What stood below was replaced after it was folded: only a fold from slot 1 can look back.
                state.become(self._fold(use_cache=False))
                return
            self._fold_slot(state, slots)

    def _fold_slot(self, state: RunState, slots: LogSlots) -> None:
        slot = slots.at(state.slot + 1)
        if not isinstance(slot, Record) or _contradicted(state, slot, slots):
            apply_damaged(state)
            return
        apply_record(state, slot)
        if state.head == slot.digest:
            self._effective.append(slot)

    def _listed(self, *, after: int) -> list[int]:
        start = keys.log_key(self._run, after)
        found = (
            keys.parse_log_key(info.key)
            for info in self._store.list(keys.log_prefix(self._run), after=start)
        )
        return [slot for slot in found if slot is not None]

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
            data = self._store.get(keys.fold_key(self._run, slot, head), at_most=MAX_CACHE_BYTES)
            return decode_cache(data, run=self._run, slot=slot, head=head)
        except (ObjectNotFoundError, ValueError):
            return None

    def _continues(self, slot: int, head: str) -> bool:
        here = self.read(slot)
        if isinstance(here, Record) and here.digest == head:
            return True
        above = self.read(slot + 1)
        return isinstance(above, Record) and above.prev == head

    def _fold_lost_tail(self, state: RunState) -> None:
        """A cache of this run beyond the tail proves that there were slots: read again, what is absent was lost."""
        if state.run_id is None:
            return
        infos = self._store.list(
            keys.folds_prefix(self._run), after=keys.fold_key(self._run, state.slot + 1, "")
        )
        named = [p for info in infos if (p := keys.parse_fold_key(info.key))]
        near = [p for p in named if state.slot < p[0] <= state.slot + _WIDEST_GAP]
        for slot, head in sorted(near, reverse=True):
            cached = self._read_cache(slot, head)
            if cached is not None and cached.run_id == state.run_id:
                # The cache may have been written since we met the end, so nothing is lost before it is read again.
                above = range(state.slot + 1, slot + 1)
                self._walk(state, self._slots(above), lost_until=slot)
                return


def _near(listed: list[int], slot: int) -> list[int]:
    """Without strays: what lies far beyond all others was not written by this log."""
    found: list[int] = []
    for number in sorted(listed):
        if number > (found[-1] if found else slot) + _WIDEST_GAP:
            break
        found.append(number)
    return found


def _own_above(state: RunState, slots: LogSlots) -> bool:
    return state.run_id is not None and slots.last_of(state.run_id) > state.slot


def _contradicted(state: RunState, record: Record, slots: LogSlots) -> bool:
    """Whether the next record of its run says that another one stood here: then nobody knows what did."""
    if record.run_id != state.run_id:
        return False
    above = record.slot + 1
    while isinstance(found := slots.at(above), Record) and found.run_id != record.run_id:
        above += 1
    if not isinstance(found, Record) or found.kind == Filler.kind:
        return False
    said = {f"damaged:{slot}" for slot in range(record.slot, above)}
    return found.prev != record.digest and found.prev not in said
