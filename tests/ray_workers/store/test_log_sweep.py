"""Every storage call of an attempt goes wrong, once in every way; then a new attempt comes, and nothing may be lost."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import pytest

from ray_workers.store import keys
from ray_workers.store import log as log_module
from ray_workers.store.bodies import AttemptStarted, Commit, ResumeChosen
from ray_workers.store.checksum import verify
from ray_workers.store.commit import commit_version, put_with_retries
from ray_workers.store.errors import (
    ConflictError,
    StoreUnavailableError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.manifest import Manifest
from ray_workers.store.memory import MemoryStore
from ray_workers.store.records import Record
from tests.support import guard_removals as removed
from tests.support.faulty_store import Call, Died, Fault, FaultyStore, Plan
from tests.support.plain_attempt import Pauses, Told, attempt
from tests.support.plain_log import RUN, folded


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    made = Pauses()
    for function in (RunLog.__init__, commit_version, put_with_retries):
        monkeypatch.setitem(function.__kwdefaults__, "sleep", made)
    return made


# --- what must hold --------------------------------------------------------------------------------------------


def check(store: MemoryStore, *told: Told) -> None:
    state = folded(store)
    manifests = {version.manifest for version in state.versions.values()}
    for one in told:
        assert manifests.issuperset(one.committed), "a commit that was reported is lost"
        assert manifests.isdisjoint(one.failed), "a commit that was reported failed is there"
    assert not state.damaged
    records = [LogReader(store, RUN).read(slot) for slot in range(1, state.slot + 1)]
    assert all(isinstance(record, Record) for record in records)
    _check_fences([record for record in records if isinstance(record, Record)])
    _check_readable(store)


def _check_fences(records: list[Record]) -> None:
    fence, newest = 0, None
    for record in records:
        body = record.body
        if isinstance(body, AttemptStarted):
            fence = record.slot
        elif isinstance(body, Commit):
            assert body.fence == fence, f"slot {record.slot} was committed under a lost fence"
            newest = body.number
        elif isinstance(body, ResumeChosen):
            chosen = None if body.version is None else body.version.number
            assert chosen == newest, f"slot {record.slot} passes a newer version over in silence"


def _check_readable(store: MemoryStore) -> None:
    for version in folded(store).versions.values():
        key = keys.manifest_key(RUN, version.fence, version.manifest)
        data = store.get(key)
        assert hashlib.sha256(data).hexdigest() == version.manifest
        for entry in Manifest.from_bytes(data, key=key).shards:
            verify(store.get(entry.key), entry.digest, key=entry.key)


# --- the ways to go wrong --------------------------------------------------------------------------------------


def once(fault: Fault) -> Callable[[int], Plan]:
    return lambda number: lambda call: fault if call.number == number else None


def twice(fault: Fault) -> Callable[[int], Plan]:
    return lambda number: lambda call: fault if call.number in (number, number + 1) else None


def cut_off(number: int) -> Plan:
    """From this call on no answer comes; what was written lands when it likes."""

    def plan(call: Call) -> Fault | None:
        if call.number < number:
            return None
        return Fault.DELAY if call.is_write else Fault.UNAVAILABLE

    return plan


WRITES = ("put", "put_if_absent")
WAYS: dict[str, tuple[Callable[[int], Plan], tuple[str, ...]]] = {
    "dies before": (once(Fault.DIE_BEFORE), (*WRITES, "get", "list")),
    "dies after": (once(Fault.DIE_AFTER), WRITES),
    "answer lost": (once(Fault.LOSE_RESPONSE), WRITES),
    "delayed": (once(Fault.DELAY), WRITES),
    "unavailable": (once(Fault.UNAVAILABLE), (*WRITES, "get", "list")),
    "unavailable twice": (twice(Fault.UNAVAILABLE), (*WRITES, "get", "list")),
    "bit flipped": (once(Fault.FLIP_BIT), ("get",)),
    "stale list": (once(Fault.STALE_LIST), ("list",)),
    "cut off": (cut_off, (*WRITES, "get", "list")),
}
WHEN_IT_LANDS = ("while it waits", "at once", "after the next start", "at the end")


def begun() -> MemoryStore:
    """A run in which an attempt has ended."""
    store = MemoryStore()
    attempt(store, Told(), "before", versions=1)
    return store


BEFORE: dict[str, Callable[[], MemoryStore]] = {"no run": MemoryStore, "a run": begun}


def _cases(before: str, verbs: tuple[str, ...]) -> Iterator[int]:
    dry = FaultyStore(BEFORE[before]())
    attempt(dry, Told(), "dry")
    yield from (call.number for call in dry.calls if call.verb in verbs)


def sweep(pauses: Pauses, before: str, way: str, landing: str) -> int:
    """All calls, one at a time; how many there were."""
    make_plan, verbs = WAYS[way]
    count = 0
    for number in _cases(before, verbs):
        count += 1
        inner = BEFORE[before]()
        faulty = FaultyStore(inner, make_plan(number))
        first, second = Told(), Told()
        pauses.begin(faulty.land if landing == "while it waits" else lambda: None)
        with contextlib.suppress(Died, StoreUnavailableError):
            attempt(faulty, first, "first")
        pauses.begin(lambda: None)
        _next_attempt(inner, faulty, second, landing)
        assert len(second.committed) == 2, f"{way} at call {number}: the next attempt is stuck"
        check(inner, first, second)
        assert not [call for call in faulty.calls if call.verb == "delete"]
    return count


def _next_attempt(inner: MemoryStore, faulty: FaultyStore, told: Told, landing: str) -> None:
    if landing == "at once":
        faulty.land()

    def land_after_start(call: Call) -> None:
        if landing == "after the next start" and call.verb == "put":
            faulty.land()

    attempt(FaultyStore(inner, land_after_start), told, "second")
    faulty.land()


def stall(pauses: Pauses, before: str) -> None:
    """The first attempt stands still at each call in turn, and goes on when a whole other attempt is over."""
    for number in _cases(before, (*WRITES, "get", "list")):
        inner, first, second = BEFORE[before](), Told(), Told()

        def overtake(call: Call, number: int = number, inner: MemoryStore = inner) -> None:
            if call.number == number:
                attempt(inner, second, "second")  # noqa: B023 - called before the next turn

        pauses.begin(lambda: None)
        with contextlib.suppress(ConflictError):
            attempt(FaultyStore(inner, overtake), first, "first")
        assert len(second.committed) == 2
        check(inner, first, second)


@pytest.fixture
def many_caches(monkeypatch):
    monkeypatch.setattr(log_module, "CACHE_EVERY_SLOTS", 3)


each_before = pytest.mark.parametrize("before", BEFORE)


@each_before
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_lost_whatever_call_goes_wrong(way, before, pauses):
    delays = way in ("delayed", "cut off")
    for landing in WHEN_IT_LANDS if delays else WHEN_IT_LANDS[-1:]:
        assert sweep(pauses, before, way, landing) >= 2


@each_before
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("many_caches")
def test_nothing_is_lost_where_fold_caches_are_written_and_read(way, before, pauses):
    assert sweep(pauses, before, way, "after the next start") >= 2


@each_before
def test_nothing_is_lost_when_an_attempt_stalls_and_goes_on_after_the_next(before, pauses):
    stall(pauses, before)


@pytest.mark.usefixtures("many_caches")
def test_nothing_is_lost_when_an_attempt_stalls_and_meets_a_cache_of_the_next(pauses):
    stall(pauses, "a run")


def test_the_sweep_notices_that_lost_answers_are_not_resolved(pauses, monkeypatch):
    removed.never_ours(monkeypatch)
    with pytest.raises((AssertionError, ConflictError)):
        sweep(pauses, "no run", "answer lost", "at the end")


def test_the_sweep_notices_a_writer_that_gives_up_without_an_answer(pauses, monkeypatch):
    removed.gives_up_without_answer(monkeypatch)
    with pytest.raises((AssertionError, ConflictError)):
        sweep(pauses, "no run", "delayed", "while it waits")


def test_the_sweep_notices_that_fences_are_not_checked(pauses, monkeypatch):
    removed.no_fence_check(monkeypatch)
    with pytest.raises(AssertionError, match=r"lost fence|newer version"):
        stall(pauses, "no run")
