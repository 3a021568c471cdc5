import numpy as np
import pytest

from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import (
    DigestMismatchError,
    NewerFormatError,
    ObjectNotFoundError,
    StoreUnavailableError,
)
from ray_workers.store.fetch import PART_BYTES, fetch, new_memory
from ray_workers.store.memory import MemoryStore
from ray_workers.store.shards import ShardEntry, read_shard
from tests.support.faulty_store import Fault, FaultyStore

SIZE = 3 * PART_BYTES + 5
KEY = "runs/a/large"


@pytest.fixture(scope="module")
def data() -> bytes:
    return np.random.default_rng(0).bytes(SIZE)


@pytest.fixture
def store(data) -> MemoryStore:
    store = MemoryStore()
    store.put(KEY, data)
    return store


def entry(data: bytes, digest: str | None = None) -> ShardEntry:
    return ShardEntry(rank=0, key=KEY, bytes=len(data), digest=digest or digest_of(data))


class FaultPlan:
    """The fault befalls the n-th range."""

    def __init__(self, number: int, fault: Fault) -> None:
        self.number, self.fault, self.seen = number, fault, 0

    def __call__(self, call):
        self.seen += call.verb == "read_into"
        return self.fault if call.verb == "read_into" and self.seen == self.number else None


@pytest.mark.parametrize("size", [1, PART_BYTES, PART_BYTES + 1, SIZE])
@pytest.mark.parametrize("algorithm", ["xxh3-128", "sha256"])
def test_ranges_and_digest_are_those_of_the_whole(store, data, size, algorithm):
    target = new_memory(size)
    assert fetch(store, KEY, target, algorithm) == digest_of(data[:size], algorithm)
    assert target == data[:size]


def test_an_object_that_ends_earlier_is_damage(store, data):
    with pytest.raises(DigestMismatchError, match=f"has {SIZE} bytes, but {SIZE + 9} were written"):
        fetch(store, KEY, new_memory(SIZE + 9), "xxh3-128")


def test_a_large_shard_is_read_in_ranges_and_verified(store, data):
    watched = FaultyStore(store, {})
    assert read_shard(watched, entry(data)) == data
    assert [call.verb for call in watched.calls].count("read_into") == 4
    assert "get" not in {call.verb for call in watched.calls}


def test_one_turned_bit_in_one_range_is_read_again(store, data):
    assert read_shard(FaultyStore(store, FaultPlan(3, Fault.FLIP_BIT)), entry(data)) == data


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"1", lambda d: d[:-1] + b"?"])
def test_a_damaged_large_shard_is_refused(data, change):
    store = MemoryStore()
    store.put(KEY, change(data))
    with pytest.raises(DigestMismatchError, match="damaged"):
        read_shard(store, entry(data))


def test_an_error_of_one_range_is_the_error_of_the_read(store, data):
    with pytest.raises(StoreUnavailableError):
        read_shard(FaultyStore(store, FaultPlan(2, Fault.UNAVAILABLE)), entry(data))
    with pytest.raises(ObjectNotFoundError):
        read_shard(MemoryStore(), entry(data))


def test_a_digest_of_tomorrow_is_not_damage(store, data):
    with pytest.raises(NewerFormatError, match="xxh5"):
        read_shard(store, entry(data, digest="xxh5-128:" + "0" * 32))


def test_the_memory_may_be_the_callers(store, data):
    given = memoryview(bytearray(SIZE))
    assert read_shard(store, entry(data), lambda size: given[:size]) == data
    assert given == data
