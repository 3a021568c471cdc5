"""The slots of one reading of a log: each is read once, those that are known to be there side by side (FORMAT.md §5)."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from ray_workers.store import keys
from ray_workers.store.errors import MalformedObjectError, ObjectNotFoundError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import MAX_RECORD_BYTES, Record

__all__ = ["DAMAGED", "LogSlots", "Slot"]


class _Damaged:
    """The slot is taken by bytes that are no valid record."""


DAMAGED = _Damaged()
Slot = Record | _Damaged | None
"""What stands in a slot; None: nothing."""

_READERS = 16


class LogSlots:
    """What stood in the slots when this reading came by.

    Args:
        store: where the run lives.
        run: its name.
        wanted: slots to read at once.
    """

    def __init__(self, store: ObjectStore, run: str, wanted: Iterable[int] = ()) -> None:
        self._store = store
        self._run = run
        self._known: dict[int, Slot] = {}
        self._last: tuple[str | None, int] = (None, 0)
        numbers = list(wanted)
        self._known.update(zip(numbers, self.read_many(numbers), strict=True))

    def at(self, number: int) -> Slot:
        """What stood in a slot; one that nobody asked for before is read now."""
        if number not in self._known:
            self._known[number] = self.read(number)
        return self._known[number]

    def last_of(self, run_id: str) -> int:
        """The highest of the slots `wanted` that holds a valid record of that run; 0: none."""
        if self._last[0] != run_id:
            own = (
                n for n, s in self._known.items() if isinstance(s, Record) and s.run_id == run_id
            )
            self._last = (run_id, max(own, default=0))
        return self._last[1]

    def read(self, number: int) -> Slot:
        """What stands in a slot now. A bad digest counts only when it is seen on two reads."""
        key = keys.log_key(self._run, number)
        for last_try in (False, True):
            try:
                data = self._store.get(key, at_most=MAX_RECORD_BYTES)
                return Record.from_bytes(data, key=key, slot=number)
            except ObjectNotFoundError:
                return None
            except MalformedObjectError:
                if last_try:
                    return DAMAGED
        return DAMAGED

    def read_many(self, numbers: Iterable[int]) -> list[Slot]:
        wanted = list(numbers)
        if not wanted:
            return []
        with ThreadPoolExecutor(min(_READERS, len(wanted))) as pool:
            return list(pool.map(self.read, wanted))
