"""Oversized and deeply nested input: no more is read or kept than a valid object could have."""

from __future__ import annotations

import tracemalloc

import pytest

from ray_workers.store import fold_cache, keys, manifest, records, shards
from ray_workers.store.attempts import read_run
from ray_workers.store.audit import audit_run
from ray_workers.store.errors import DamageError, DigestMismatchError, MalformedObjectError
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.log_reader import LogReader
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import _read_root_id
from ray_workers.store.shards import ShardEntry, parse_header, read_shard
from ray_workers.store.strict_json import parse_json
from ray_workers.store.versions import load_manifest, verify_bytes
from tests.support.factories import MadeUpRun

MIB = 1 << 20


class Endless(MemoryStore):
    """One object has no end: whoever reads it without a limit fails the test."""

    def __init__(self) -> None:
        super().__init__()
        self.endless = ""
        self.most = 0

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        if key != self.endless:
            return super().get(key, at_most=at_most)
        assert at_most is not None, f"{key} is read whole, whatever its size"
        self.most = max(self.most, at_most)
        return b"[" * (at_most + 1)


@pytest.fixture
def made():
    run = MadeUpRun(store=Endless(), name="run", ranks=1)
    run.start()
    run.commit(10)
    run.commit(20)
    return run


def test_a_record_without_an_end_is_a_damaged_slot(made):
    made.store.endless = keys.log_key("run", 4)
    assert read_run(made.store, "run").damaged == (4,)
    assert [slot.slot for slot in audit_run(made.store, "run").damaged_slots] == [4]
    assert made.store.most == records.MAX_RECORD_BYTES


def test_a_manifest_without_an_end_is_damage(made, monkeypatch):
    monkeypatch.setattr("ray_workers.store.versions.MAX_MANIFEST_BYTES", MIB)
    made.store.endless = made.manifest_key(1)
    result, found = verify_bytes(made.store, "run", made.version(1))
    assert (result.check, result.passed, found) == ("bytes", False, None)
    assert made.store.most == MIB


def test_a_shard_without_an_end_is_damage(made):
    [entry] = load_manifest(made.store, "run", made.version(1)).shards
    made.store.endless = entry.key
    with pytest.raises(DigestMismatchError, match="bytes"):
        read_shard(made.store, entry)
    assert made.store.most == entry.bytes


def test_a_cache_without_an_end_is_ignored(made, monkeypatch):
    monkeypatch.setattr("ray_workers.store.log_reader.MAX_CACHE_BYTES", MIB)
    monkeypatch.setattr(fold_cache, "MAX_CACHE_BYTES", MIB)
    state = made.log.refresh()
    made.store.endless = keys.fold_key("run", state.slot, state.head)
    made.store.put(made.store.endless, encode_cache(state))
    assert LogReader(made.store, "run").fold() == state
    assert made.store.most == MIB


def test_a_root_without_an_end_is_refused(made):
    made.store.endless = keys.ROOT_KEY
    made.store.put(keys.ROOT_KEY, b"")
    with pytest.raises(MalformedObjectError):
        _read_root_id(made.store)
    assert made.store.most <= 64 * 1024


@pytest.mark.parametrize("claimed", [17 * MIB, 2**62, 2**63 - 1])
def test_a_manifest_that_claims_a_huge_shard_gets_no_memory_for_it(made, claimed):
    [entry] = load_manifest(made.store, "run", made.version(1)).shards
    huge = ShardEntry(rank=0, key=entry.key, bytes=claimed, digest=entry.digest)

    def memory(size: int) -> memoryview:
        raise AssertionError(f"{size} bytes were asked for")

    with pytest.raises(DigestMismatchError, match=f"{claimed} were written"):
        read_shard(made.store, huge, memory)


def peak_of(read) -> int:
    tracemalloc.start()
    try:
        with pytest.raises((DamageError, ValueError)):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":[', b"[[],"])
def test_nesting_without_an_end_takes_little_memory(opening):
    data = opening * (2 * MIB // len(opening))
    assert peak_of(lambda: parse_json(data, limit=4 * MIB)) < 64 * MIB
    assert peak_of(lambda: manifest.Manifest.from_bytes(data)) < 64 * MIB
    assert peak_of(lambda: records.Record.from_bytes(data[:60_000], key="k", slot=1)) < 8 * MIB


def test_a_header_that_claims_too_much_is_refused_before_it_is_read():
    for claimed in (shards.MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1):
        data = claimed.to_bytes(8, "little") + b"{}"
        assert peak_of(lambda data=data: parse_header(data)) < MIB
