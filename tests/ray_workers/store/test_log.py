"""Appending: answers that do not come, holes that are filled, caches that are written."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ray_workers.store import keys
from ray_workers.store import log as log_module
from ray_workers.store.bodies import AttemptEnded, AttemptStarted
from ray_workers.store.errors import (
    OutcomeUnknownError,
    PawlError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.log import CACHE_EVERY_SLOTS, RunLog
from ray_workers.store.log_reader import LogReader
from tests.support.faulty_store import Call, Fault, FaultyStore, Hooked
from tests.support.plain_log import (
    RUN,
    append,
    commit,
    commit_body,
    folded,
    lose,
    new_run,
    on_slot,
    open_log,
    refusal,
    start,
)


def test_a_refusal_after_an_unanswered_try_leaves_the_outcome_unknown():
    inner, _ = new_run()
    late = FaultyStore(inner, on_slot(3, Fault.DELAY))

    def expire(verb: str, key: str) -> None:
        if verb == "put_if_absent" and late.writes:
            raise StoreRefusedError("The credentials have expired.", key=key)

    w1 = RunLog(Hooked(late, expire), RUN, by={}, patience_s=0.01, sleep=lambda _: None)
    with pytest.raises(PawlError) as caught:
        append(w1, commit_body(w1.state, fence=2))
    late.land()
    assert list(folded(inner).versions) == [1]
    assert "unknown" in caught.value.message


def test_an_unknown_outcome_has_a_kind_of_its_own():
    inner, _ = new_run()
    silent = FaultyStore(inner, lambda call: Fault.DELAY if call.is_write else None)
    w1 = RunLog(silent, RUN, by={}, patience_s=0.0, sleep=lambda _: None)
    with pytest.raises(PawlError) as caught:
        append(w1, commit_body(w1.state, fence=2))
    assert caught.value.kind == OutcomeUnknownError.kind != StoreUnavailableError.kind


def test_patience_ends_although_the_slot_cannot_be_read():
    store, first = new_run()
    reads: list[str] = []

    def unreadable(verb: str, key: str) -> None:
        if first.state.slot == 3 and verb == "get" and key == keys.log_key(RUN, 3):
            reads.append(key)
            assert len(reads) < 1000, "it goes on for ever"
            raise StoreUnavailableError("503", key=key)

    hooked = Hooked(store, unreadable)
    late = RunLog(hooked, RUN, by={}, patience_s=0.0, sleep=lambda _: None)
    append(first, AttemptEnded(fence=2, outcome="crashed"))
    with pytest.raises(OutcomeUnknownError):
        append(late, AttemptStarted(flow_run_id="other", run_count=1, incarnation=0))


def test_a_writer_that_misreads_its_own_record_finds_it_in_the_fold():
    inner, _ = new_run()
    bad = [Fault.FLIP_BIT] * 2
    lost = on_slot(3, Fault.LOSE_RESPONSE)

    def plan(call: Call) -> Fault | None:
        if call.verb == "get" and call.key == keys.log_key(RUN, 3) and bad and armed:
            return bad.pop()
        return lost(call)

    armed: list[bool] = []
    w1 = open_log(FaultyStore(inner, plan))
    armed.append(True)
    assert refusal(w1, commit_body(w1.state, fence=2)) is None
    assert list(folded(inner).versions) == [1]


def test_every_hole_is_filled_before_anything_is_built_above_it():
    store, w1 = new_run()
    for step in range(1, 2 * CACHE_EVERY_SLOTS):
        commit(w1, step=step)
    for slot in range(20, w1.state.slot + 1):
        lose(store, slot)
    w2 = open_log(store)
    start(w2, flow="other")
    reader = LogReader(store, RUN)
    assert [slot for slot in range(1, w2.state.slot) if reader.read(slot) is None] == []


def test_short_lived_processes_write_caches_too():
    store, _ = new_run()
    for first in range(1, 3 * CACHE_EVERY_SLOTS, 32):
        log = open_log(store)
        for step in range(first, first + 32):
            commit(log, step=step)
    assert [*store.list(keys.folds_prefix(RUN))]


def test_caches_of_a_long_log_come_further_apart(monkeypatch):
    monkeypatch.setattr(log_module, "CACHE_EVERY_SLOTS", 3)
    monkeypatch.setattr(log_module, "_CACHE_PART", 4)
    store, log = new_run()
    for step in range(1, 150):
        commit(log, step=step)
    slots = [
        found[0]
        for i in store.list(keys.folds_prefix(RUN))
        if (found := keys.parse_fold_key(i.key))
    ]
    assert all(above - slot >= max(3, above // 4) for slot, above in pairwise(slots))
    assert len(slots) < 20  # every third slot would be 50
    assert folded(store) == log.state


def test_a_refusal_of_the_first_try_is_no_unknown_outcome():
    store, _ = new_run()

    def expire(verb: str, key: str) -> None:
        if verb == "put_if_absent":
            raise StoreRefusedError("The credentials have expired.", key=key)

    w1 = RunLog(Hooked(store, expire), RUN, by={}, sleep=lambda _: None)
    with pytest.raises(StoreRefusedError):
        append(w1, commit_body(w1.state, fence=2))


def test_the_slot_that_may_not_be_read_leaves_the_outcome_unknown():
    store, w1 = new_run()
    late = RunLog(store, RUN, by={}, sleep=lambda _: None)
    commit(w1, step=1)

    def forbid(verb: str, key: str) -> None:
        if (verb, key) == ("get", keys.log_key(RUN, 3)):
            raise StoreRefusedError("GetObject is not allowed.", key=key)

    late._store = hooked = Hooked(store, forbid)
    late._reader = LogReader(hooked, RUN)
    with pytest.raises(OutcomeUnknownError, match="slot 3"):
        append(late, AttemptEnded(fence=2, outcome="crashed"))
