"""A shard straight into memory that is there: right, read once, verified in the same pass, and damage is found."""

from __future__ import annotations

import numpy as np
import pytest

from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import (
    DigestMismatchError,
    InternalError,
    MalformedObjectError,
    ObjectNotFoundError,
)
from ray_workers.store.fetch import StoredRanges
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.memory import MemoryStore
from ray_workers.store.shard_filling import fill_from, fill_shard
from ray_workers.store.shards import ShardEntry, arrange, build_header
from tests.support.faulty_store import Fault, FaultyStore

KEY = "runs/a/shard"
SPECS = [
    ("large", "U8", (20 << 20,)),
    ("middle", "F32", (1 << 20,)),
    ("none", "F32", (0, 3)),
    ("small", "I64", ()),
    ("unwanted", "U8", (5 << 20,)),
]


@pytest.fixture(scope="module")
def shard() -> bytes:
    tensors = arrange(SPECS)
    return build_header(tensors) + np.random.default_rng(1).bytes(sum(t.nbytes for t in tensors))


def entry_of(data: bytes, **changes) -> ShardEntry:
    return ShardEntry(
        **{"rank": 0, "key": KEY, "bytes": len(data), "digest": digest_of(data), **changes}
    )


def stored(data: bytes) -> MemoryStore:
    store = MemoryStore()
    store.put(KEY, data)
    return store


class Asked:
    """Places for all but the unwanted tensor."""

    def __init__(self) -> None:
        self.memory: dict[str, bytearray] = {}
        self.times = 0

    def __call__(self, tensors):
        self.times += 1
        self.memory = {t.name: bytearray(t.nbytes) for t in tensors if t.name != "unwanted"}
        return [memoryview(self.memory[t.name]) if t.name in self.memory else None for t in tensors]


def check(asked: Asked, shard: bytes) -> None:
    tensors = arrange(SPECS)
    start = len(build_header(tensors))
    assert set(asked.memory) == {t.name for t in tensors} - {"unwanted"}
    for tensor in tensors:
        if tensor.name in asked.memory:
            begin = start + tensor.offset
            assert asked.memory[tensor.name] == shard[begin : begin + tensor.nbytes]


def test_every_tensor_is_where_it_was_wanted(shard, tmp_path):
    folder = LocalFolderStore(str(tmp_path))
    folder.put(KEY, shard)
    for store in (stored(shard), folder):
        asked = Asked()
        fill_shard(StoredRanges(store, KEY), entry_of(shard), asked)
        check(asked, shard)
    asked = Asked()
    fill_from(memoryview(shard), entry_of(shard), asked)
    check(asked, shard)


def test_data_are_read_once(shard):
    watched = FaultyStore(stored(shard), {})
    lengths = []
    inner = watched.read_into

    def counted(key, start, *targets):
        lengths.append(sum(map(len, targets)))
        return inner(key, start, *targets)

    watched.read_into = counted  # type: ignore[method-assign]
    fill_shard(StoredRanges(watched, KEY), entry_of(shard), Asked())
    header = len(build_header(arrange(SPECS)))
    assert sum(lengths[1:]) == len(shard) - header
    assert lengths[0] <= 64 * 1024


class BitPlan:
    """One bit is turned in the n-th range."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, 0

    def __call__(self, call):
        self.seen += call.verb == "read_into"
        return Fault.FLIP_BIT if call.verb == "read_into" and self.seen == self.number else None


@pytest.mark.parametrize("number", [2, 3])
def test_a_bit_turned_on_the_way_is_read_again(shard, number):
    asked = Asked()
    store = FaultyStore(stored(shard), BitPlan(number))
    fill_shard(StoredRanges(store, KEY), entry_of(shard), asked)
    check(asked, shard)
    with pytest.raises((DigestMismatchError, MalformedObjectError)):
        fill_shard(
            StoredRanges(FaultyStore(stored(shard), BitPlan(number)), KEY),
            entry_of(shard),
            Asked(),
            tries=1,
        )


@pytest.mark.parametrize("at", [0, 9, 40, 5_000, 25_000_000, -1])
def test_one_turned_bit_in_the_object_is_damage(shard, at):
    damaged = bytearray(shard)
    damaged[at] ^= 1
    with pytest.raises((DigestMismatchError, MalformedObjectError)):
        fill_shard(StoredRanges(stored(bytes(damaged)), KEY), entry_of(shard), Asked())


def test_a_header_that_was_other_when_it_was_parsed_does_not_pass(shard):
    """Two tensors of one type and size, their names exchanged in the first read alone: every length still fits."""
    tensors = arrange([("a", "U8", (2 << 20,)), ("b", "U8", (2 << 20,))])
    header = build_header(tensors)
    data = header + np.random.default_rng(2).bytes(4 << 20)
    other = (
        header.replace(b'"a"', b'"x"').replace(b'"b"', b'"a"').replace(b'"x"', b'"b"')
        + data[len(header) :]
    )

    class Lying(MemoryStore):
        def read_into(self, key, start, *targets):
            if start == 0:
                first = memoryview(other)[: sum(map(len, targets))]
                targets[0][:] = first
                return len(first)
            return super().read_into(key, start, *targets)

    store = Lying()
    store.put(KEY, data)
    with pytest.raises(DigestMismatchError):
        fill_shard(StoredRanges(store, KEY), entry_of(data), Asked())


@pytest.mark.parametrize("claimed", [30 << 20, 2**62])
def test_an_object_of_another_size_gets_no_memory(shard, claimed):
    asked = Asked()
    with pytest.raises(DigestMismatchError, match=f"{claimed} were written"):
        fill_shard(StoredRanges(stored(shard), KEY), entry_of(shard, bytes=claimed), asked)
    assert asked.times == 0


def test_an_absent_object_is_not_there(shard):
    with pytest.raises(ObjectNotFoundError):
        fill_shard(StoredRanges(MemoryStore(), KEY), entry_of(shard), Asked())


def test_a_place_of_another_size_is_refused(shard):
    def places(tensors):
        return [memoryview(bytearray(t.nbytes + (t.name == "small"))) for t in tensors]

    with pytest.raises(InternalError, match="small has 8 bytes and a place of 9"):
        fill_shard(StoredRanges(stored(shard), KEY), entry_of(shard), places)
