from __future__ import annotations

import pytest

from ray_workers.store.errors import ObjectExistsError, ObjectNotFoundError, StoreUnavailableError
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectInfo, ObjectStore
from tests.ray_workers.store.store_conformance import StoreConformance
from tests.support.faulty_store import Call, Died, Fault, FaultyStore, fail_writes


class TestWithoutFaults(StoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return FaultyStore(MemoryStore())


@pytest.fixture
def inner() -> MemoryStore:
    return MemoryStore()


def test_dying_before_leaves_nothing_and_ends_the_process(inner):
    store = FaultyStore(inner, {2: Fault.DIE_BEFORE})
    store.put("a", b"1")
    with pytest.raises(Died):
        store.put_if_absent("b", b"2")
    with pytest.raises(Died):
        store.delete("a")
    assert [info.key for info in inner.list("")] == ["a"]
    assert not issubclass(Died, Exception)


def test_dying_after_leaves_the_write(inner):
    store = FaultyStore(inner, fail_writes(1, Fault.DIE_AFTER))
    list(store.list(""))
    with pytest.raises(Died):
        store.put_if_absent("b", b"2")
    assert inner.get("b") == b"2"
    with pytest.raises(Died):
        store.get("b")


def test_a_lost_response_hides_success_and_refusal_alike(inner):
    store = FaultyStore(inner, {1: Fault.LOSE_RESPONSE, 2: Fault.LOSE_RESPONSE})
    with pytest.raises(StoreUnavailableError):
        store.put_if_absent("b", b"mine")
    with pytest.raises(StoreUnavailableError):
        store.put_if_absent("b", b"mine")
    with pytest.raises(ObjectExistsError):
        store.put_if_absent("b", b"mine")
    assert inner.get("b") == b"mine"


def test_a_delayed_write_lands_when_told_with_the_buffer_as_it_is_then(inner):
    store = FaultyStore(inner, {1: Fault.DELAY, 2: Fault.DELAY, 3: Fault.DELAY})
    buffer = bytearray(b"old")
    with pytest.raises(StoreUnavailableError):
        store.put("data", buffer)
    with pytest.raises(StoreUnavailableError):
        store.put_if_absent("record", b"late")
    with pytest.raises(StoreUnavailableError):
        store.delete("gone")
    with pytest.raises(ObjectNotFoundError):
        inner.get("data")
    buffer[:] = b"new"
    inner.put("record", b"first")
    inner.put("gone", b"")
    assert [landing.refused for landing in store.land(1)] == [False]
    assert inner.get("data") == b"new"
    assert [(landing.call.verb, landing.refused) for landing in store.land()] == [
        ("put_if_absent", True),
        ("delete", False),
    ]
    assert inner.get("record") == b"first"
    assert [info.key for info in inner.list("")] == ["data", "record"]
    assert store.land() == []


def test_a_503_performs_nothing(inner):
    store = FaultyStore(
        inner, lambda call: Fault.UNAVAILABLE if call.key.startswith("x/") else None
    )
    store.put("a", b"")
    for call in (store.get, store.head, store.delete, store.list, store.list_folders):
        with pytest.raises(StoreUnavailableError):
            call("x/1")
    with pytest.raises(StoreUnavailableError):
        store.put("x/1", b"")
    assert [info.key for info in inner.list("")] == ["a"]


def test_a_flipped_bit_is_seen_once_and_not_stored(inner):
    inner.put("a", b"\0\0\0")
    store = FaultyStore(inner, {1: Fault.FLIP_BIT, 2: Fault.FLIP_BIT})
    assert store.get("a") == b"\0\1\0"
    assert store.get_range("a", 0, 2) == b"\0\1"
    assert store.get("a") == b"\0\0\0"


def test_a_stale_listing_shows_the_store_before_this_process_wrote(inner):
    inner.put("runs/old/1", b"")
    inner.put("runs/gone/1", b"")
    store = FaultyStore(inner, {3: Fault.STALE_LIST, 4: Fault.STALE_LIST})
    store.put("runs/new/1", b"")
    store.delete("runs/gone/1")
    assert [info.key for info in store.list("runs/")] == ["runs/gone/1", "runs/old/1"]
    assert store.list_folders("runs") == ["gone", "old"]
    assert store.list_folders("runs") == ["new", "old"]


def test_a_request_that_arrives_twice_is_answered_for_the_second_time(inner):
    store = FaultyStore(inner, dict.fromkeys([1, 2, 3], Fault.ANSWER_TWICE))
    with pytest.raises(ObjectExistsError):
        store.put_if_absent("record", b"mine")
    store.put("data", b"mine")
    store.delete("data")
    assert [info.key for info in inner.list("")] == ["record"]
    inner.put("data", b"again")
    assert [landing.call.verb for landing in store.land()] == ["delete"]
    assert [info.key for info in inner.list("")] == ["record"]


def test_a_torn_put_leaves_half_and_a_rotten_one_a_turned_bit(inner):
    store = FaultyStore(inner, {1: Fault.TEAR, 2: Fault.ROT})
    with pytest.raises(StoreUnavailableError):
        store.put("a", b"1234")
    store.put_if_absent("b", b"\0\0\0")
    assert (inner.get("a"), inner.get("b")) == (b"12", b"\0\2\0")


def test_conflicts_perform_nothing(inner):
    store = FaultyStore(inner, {1: Fault.BUSY, 2: Fault.TAKEN})
    with pytest.raises(StoreUnavailableError, match="409"):
        store.put_if_absent("a", b"")
    with pytest.raises(ObjectExistsError, match="412"):
        store.put_if_absent("a", b"")
    assert list(inner.list("")) == []


def test_wrappers_that_share_what_was_before_see_the_same_stale_listing(inner):
    before: dict[str, ObjectInfo | None] = {}
    FaultyStore(inner, before=before).put("a", b"")
    reader = FaultyStore(inner, {1: Fault.STALE_LIST}, before=before)
    assert list(reader.list("")) == []
    assert [info.key for info in reader.list("")] == ["a"]


def test_a_fault_that_cannot_befall_its_call_fails_the_test(inner):
    with pytest.raises(AssertionError, match="FLIP_BIT"):
        FaultyStore(inner, {1: Fault.FLIP_BIT}).put("a", b"")


def test_every_call_is_kept_with_its_numbers(inner):
    store = FaultyStore(inner, {2: Fault.UNAVAILABLE})
    store.put("a", b"")
    with pytest.raises(StoreUnavailableError):
        store.get("a")
    store.put_if_absent("b", b"")
    assert store.calls == [
        Call(number=1, write_number=1, verb="put", key="a"),
        Call(number=2, write_number=1, verb="get", key="a"),
        Call(number=3, write_number=2, verb="put_if_absent", key="b"),
    ]
    assert [call.number for call in store.writes] == [1, 3]
