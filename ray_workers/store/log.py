"""The commit log of one run: append exactly once, or learn who was first (FORMAT.md §6).

The optimistic append: fold to slot n, check the rule, create slot n+1 only if absent; on conflict fold on and check
again. An ambiguous answer (timeout, cut connection, 5xx, 409) is resolved, never guessed: the same bytes go to the
same slot until the slot is taken, then the write id says whose record stands there.
"""

from __future__ import annotations

import contextlib
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
    OutcomeUnknownError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.fold import apply_record, prev_of_next
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Author, Place, Record
from ray_workers.store.rules import check
from ray_workers.store.run_state import RunState

__all__ = ["CACHE_EVERY_SLOTS", "RunLog"]

CACHE_EVERY_SLOTS = 64
_CACHE_PART = 64
"""A cache holds the whole state, so in a long log they come further apart, by this part of its slots: all caches together
stay within so many times the last one, instead of growing with the square of the log."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


class RunLog:
    """One process's view of a run's log, and its only way to write there. Not shared between threads.

    Args:
        store: where the run lives.
        run: the run's name.
        by: who writes, as plain values (host, pid …); stands in every record, for people.
        patience_s: how long an append with an unknown outcome goes on asking before it raises
            `OutcomeUnknownError`; None: for ever. The record may still land after that, so whoever catches it must
            neither report "not written" nor delete anything.
        sleep: the pause between tries, in seconds; replaced in tests.
        raw: fold raw records and no cache, as whoever condemns must.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        by: Mapping[str, Any],
        patience_s: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        raw: bool = False,
    ) -> None:
        self._store = store
        self._run = run
        self._by = dict(by)
        self._patience_s = patience_s
        self._sleep = sleep
        self._reader = LogReader(store, run)
        self._state = self._reader.fold(use_cache=not raw)
        self._last_cache = self._reader.cache_slot
        self._taken: set[int] = set()
        """Damaged slots that are known to be no holes, or none any more."""

    @property
    def store(self) -> ObjectStore:
        """Where the run lives."""
        return self._store

    @property
    def state(self) -> RunState:
        """What the log said when it was last read. Do not change it."""
        return self._state

    def refresh(self) -> RunState:
        """Fold on to the present tail."""
        self._reader.advance(self._state)
        return self._state

    def fill_holes(self) -> None:
        """Occupy every slot that was lost, so that nothing can appear there later."""
        self._fill_holes_below(self.refresh().slot + 1)

    def append(
        self,
        decide: Callable[[RunState], Body | None],
        *,
        for_whom: Callable[[RunState], Mapping[str, Any]] | None = None,
    ) -> Record | None:
        """Append what `decide` makes of the newest state; called again whenever another record came first.

        Args:
            decide: the record's body; None: nothing is to be written.
            for_whom: `by` of the record, on the same state, when it is written in the name of another than this log's.

        Returns:
            The record as it stands in the log; None when `decide` returned None (nothing left to write).

        Raises:
            RuleRefusedError, FenceLostError, NewerFormatError: the rule does not hold on the newest state.
            OutcomeUnknownError: the record was sent, and whether it is in the log could not be learned.
            StoreUnavailableError, StoreRefusedError: the store does not let us read or write; nothing was written.
        """
        write_id = uuid.uuid4().hex
        while True:
            body = decide(self._state)
            if body is None:
                return None
            if not self._holds_on_newest(body):
                continue
            by = self._by if for_whom is None else for_whom(self._state)
            record = self._seal(body, Author(write_id=write_id, by=dict(by), at=utc_now()))
            if self._place(record):
                apply_record(self._state, record)
                self._write_cache()
                return record
            self._sleep(random.uniform(0, _FIRST_PAUSE_S))  # noqa: S311 - jitter, not a secret
            # Read badly a moment ago, our own record may show up now.
            for found in self._reader.advance(self._state):
                if found.write_id == write_id:
                    return found

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

    def _seal(self, body: Body, author: Author) -> Record:
        state = self._state
        run_id = body.run_id if isinstance(body, RunCreated) else str(state.run_id)
        place = Place(slot=state.slot + 1, run_id=run_id, prev=prev_of_next(state))
        return Record.seal(body, place=place, author=author)

    def _place(self, record: Record) -> bool:
        """Put `record` into its slot; whether it is ours that stands there.

        The slot is always taken when this returns. That is what makes the answer final.
        """
        key, data = keys.log_key(self._run, record.slot), record.to_bytes()
        self._fill_holes_below(record.slot)
        waiting = _Patience(self._patience_s, self._sleep)
        while True:
            try:
                self._store.put_if_absent(key, data)
            except ObjectExistsError:
                return self._is_ours(record, waiting)
            except StoreUnavailableError as error:
                waiting.pause(record, error)
            except StoreRefusedError as error:
                if waiting.unanswered:
                    raise _unknown(record, f"the store now refuses to answer ({error})") from error
                raise
            else:
                return True

    def _is_ours(self, record: Record, waiting: _Patience) -> bool:
        """After a conflict: our own earlier try may be what stands there (a lost answer)."""
        while True:
            try:
                found = self._reader.read(record.slot)
            except StoreUnavailableError as error:
                waiting.pause(record, error)
            except StoreRefusedError as error:
                raise _unknown(record, f"its slot may not be read ({error})") from error
            else:
                return isinstance(found, Record) and found.write_id == record.write_id

    def _fill_holes_below(self, slot: int) -> None:
        """Nobody can legally still write a hole, but a straggler could: it is occupied before we build above it."""
        state = self._state
        unseen = [hole for hole in state.damaged if hole < slot and hole not in self._taken]
        for hole, found in zip(unseen, self._reader.read_many(unseen), strict=True):
            if found is None:
                place = Place(slot=hole, run_id=str(state.run_id), prev=None)
                author = Author(write_id=uuid.uuid4().hex, by=self._by, at=utc_now())
                filler = Record.seal(Filler(), place=place, author=author)
                with contextlib.suppress(ObjectExistsError):
                    self._store.put_if_absent(keys.log_key(self._run, hole), filler.to_bytes())
            self._taken.add(hole)

    def _write_cache(self) -> None:
        state = self._state
        apart = max(CACHE_EVERY_SLOTS, state.slot // _CACHE_PART)
        if state.slot - self._last_cache < apart or state.head is None:
            return
        self._last_cache = state.slot
        try:
            self._store.put_if_absent(
                keys.fold_key(self._run, state.slot, state.head), encode_cache(state)
            )
        except (ObjectExistsError, StoreUnavailableError, StoreRefusedError):
            return  # a cache only saves time; the next one may succeed


class _Patience:
    """The pauses of one append, ever longer, until it has lasted too long.

    Args:
        limit_s: how long; None: for ever.
        sleep: makes a pause.
    """

    def __init__(self, limit_s: float | None, sleep: Callable[[float], None]) -> None:
        self._limit_s = limit_s
        self._deadline = None if limit_s is None else time.monotonic() + limit_s
        self._sleep = sleep
        self._next_s = _FIRST_PAUSE_S
        self.unanswered = False
        """Whether a request of this append got no answer, and may therefore still take effect."""

    def pause(self, record: Record, error: StoreUnavailableError) -> None:
        """After a request without an answer. Raises `OutcomeUnknownError` when patience is at its end."""
        self.unanswered = True
        if self._deadline is not None and time.monotonic() > self._deadline:
            why = f"the store did not answer for {self._limit_s:.0f} s ({error})"
            raise _unknown(record, why) from error
        self._sleep(self._next_s)
        self._next_s = min(2 * self._next_s, _LONGEST_PAUSE_S)


def _unknown(record: Record, why: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"It is unknown whether {record.kind} was written to slot {record.slot} of the log: {why}. It may still appear "
        "there; nothing was undone.",
        slot=record.slot,
    )
