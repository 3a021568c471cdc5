"""The commit log of one run: append exactly once, or learn who was first (FORMAT.md §6).

The optimistic append: fold to slot n, check the rule, create slot n+1 only if absent; on conflict fold on and check
again. An ambiguous answer (timeout, cut connection, 5xx, 409) is resolved, never guessed: the same bytes go to the
same slot until the slot is taken, then the write id says whose record stands there.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from ray_workers.store import keys
from ray_workers.store.bodies import (
    Body,
    Filler,
    RunCreated,
)
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import (
    ConflictError,
    ObjectExistsError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.fold import apply_record
from ray_workers.store.log_reader import LogReader, encode_cache
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Author, Place, Record
from ray_workers.store.rules import check
from ray_workers.store.run_state import RunState

__all__ = ["CACHE_EVERY_SLOTS", "RunLog"]

CACHE_EVERY_SLOTS = 64
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


class RunLog:
    """One process's view of a run's log, and its only way to write there. Not shared between threads.

    Args:
        store: where the run lives.
        run: the run's name.
        by: who writes, as plain values (host, pid …); stands in every record, for people.
        patience_s: how long an append with an unknown outcome goes on asking before it raises
            `StoreUnavailableError`; None: for ever. The record may still land after that, so whoever catches it must
            neither report "not written" nor delete anything.
        sleep: the pause between tries, in seconds; replaced in tests.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        by: Mapping[str, Any],
        patience_s: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._run = run
        self._by = dict(by)
        self._patience_s = patience_s
        self._sleep = sleep
        self._reader = LogReader(store, run)
        self._state = self._reader.fold()
        self._last_cache = self._state.slot

    @property
    def state(self) -> RunState:
        """What the log said when it was last read. Do not change it."""
        return self._state

    def refresh(self) -> RunState:
        """Fold on to the present tail."""
        self._reader.advance(self._state)
        return self._state

    def append(self, decide: Callable[[RunState], Body | None]) -> Record | None:
        """Append what `decide` makes of the newest state; called again whenever another record came first.

        Returns:
            The record as it stands in the log; None when `decide` returned None (nothing left to write).

        Raises:
            RuleRefusedError, FenceLostError, NewerFormatError: the rule does not hold on the newest state.
            StoreUnavailableError: the outcome is unknown after `patience_s`.
        """
        write_id = uuid.uuid4().hex
        while True:
            body = decide(self._state)
            if body is None:
                return None
            if not self._holds_on_newest(body):
                continue
            record = self._seal(body, write_id)
            if self._place(record):
                apply_record(self._state, record)
                self._write_cache()
                return record
            self._sleep(random.uniform(0, _FIRST_PAUSE_S))  # noqa: S311 - jitter, not a secret
            self.refresh()

    def _holds_on_newest(self, body: Body) -> bool:
        """Raise if the rule refuses on the newest state; False: what we knew was behind, decide again."""
        try:
            check(self._state, body)
        except ConflictError:
            before = self._state.slot
            if self.refresh().slot == before:
                raise
            return False
        return True

    def _seal(self, body: Body, write_id: str) -> Record:
        state = self._state
        run_id = body.run_id if isinstance(body, RunCreated) else str(state.run_id)
        prev = f"damaged:{state.slot}" if state.slot in state.damaged else state.head
        place = Place(slot=state.slot + 1, run_id=run_id, prev=prev)
        return Record.seal(body, place=place, author=self._author(write_id))

    def _author(self, write_id: str) -> Author:
        return Author(write_id=write_id, by=self._by, at=utc_now())

    def _place(self, record: Record) -> bool:
        """Put `record` into its slot; whether it is ours that stands there.

        The slot is always taken when this returns. That is what makes the answer final.
        """
        key, data = keys.log_key(self._run, record.slot), record.to_bytes()
        self._fill_holes_below(record.slot)
        deadline = None if self._patience_s is None else time.monotonic() + self._patience_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                self._store.put_if_absent(key, data)
            except ObjectExistsError:
                return self._is_ours(record)
            except StoreUnavailableError as error:
                if deadline is not None and time.monotonic() > deadline:
                    raise StoreUnavailableError(
                        f"It is unknown whether {record.kind} was written to {key}: the store did not answer for "
                        f"{self._patience_s:.0f} s ({error}). It may still appear there; nothing was undone."
                    ) from error
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                return True

    def _is_ours(self, record: Record) -> bool:
        """After a conflict: our own earlier try may be what stands there (a lost answer)."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                found = self._reader.read(record.slot)
            except StoreUnavailableError:
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            return isinstance(found, Record) and found.write_id == record.write_id

    def _fill_holes_below(self, slot: int) -> None:
        """Nobody can legally still write a hole, but a straggler could: it is occupied before we build above it."""
        state = self._state
        for hole in state.damaged[-CACHE_EVERY_SLOTS:]:
            if hole >= slot or self._reader.read(hole) is not None:
                continue
            place = Place(slot=hole, run_id=str(state.run_id), prev=None)
            filler = Record.seal(Filler(), place=place, author=self._author(uuid.uuid4().hex))
            try:
                self._store.put_if_absent(keys.log_key(self._run, hole), filler.to_bytes())
            except ObjectExistsError:
                continue

    def _write_cache(self) -> None:
        state = self._state
        if state.slot - self._last_cache < CACHE_EVERY_SLOTS or state.head is None:
            return
        self._last_cache = state.slot
        try:
            self._store.put_if_absent(
                keys.fold_key(self._run, state.slot, state.head), encode_cache(state)
            )
        except (ObjectExistsError, StoreUnavailableError, StoreRefusedError):
            return  # a cache only saves time; the next one may succeed
