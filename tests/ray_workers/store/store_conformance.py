"""What every backend must do. A subclass gives `store`, and `reopen` for a second client of the same objects."""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from ray_workers.store.errors import (
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
)
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from tests.support.racer import race_to_create

ILLEGAL_KEYS = [
    "",
    "/",
    "/absolute",
    "..",
    "../escape",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "a\\b",
    "a\0b",
    "a\nb",
    "a b",
    "é",
    "%2e%2e/a",
    "a?b",
    "a#b",
    ".pawl-tmp-1",
    "a/.pawl-tmp-1",
    "a" * 201,
    "/".join(["a" * 100] * 8),
]

Reopen = Callable[[], ObjectStore]


class StoreConformance:
    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError

    @pytest.fixture
    def reopen(self, store: ObjectStore) -> Reopen:
        return lambda: store

    def test_satisfies_the_port(self, store: ObjectStore):
        assert isinstance(store, ObjectStore)
        assert store.kind in {"s3", "local", "memory"}
        assert store.url in repr(store)

    @pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_001])
    def test_bytes_come_back(self, store: ObjectStore, reopen: Reopen, size: int):
        data = np.random.default_rng(size).bytes(size)
        store.put("runs/a/one", data)
        store.put_if_absent("runs/a/two", data)
        for key in ("runs/a/one", "runs/a/two"):
            assert reopen().get(key) == data
            assert reopen().head(key).size == size
            assert isinstance(reopen().get(key), bytes)

    @pytest.mark.parametrize("at_most", [0, 9, 10, 1_500_000])
    def test_of_a_larger_object_no_more_than_asked_for_and_one_byte(
        self, store: ObjectStore, at_most: int
    ):
        store.put("large", bytes(2_000_000))
        store.put("small", b"0123456789")
        assert len(store.get("large", at_most=at_most)) == at_most + 1
        assert store.get("small", at_most=at_most) == b"0123456789"[: at_most + 1]

    @pytest.mark.parametrize("write", ["put", "put_if_absent"])
    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(bytes, id="bytes"),
            pytest.param(bytearray, id="bytearray"),
            pytest.param(memoryview, id="memoryview"),
            pytest.param(lambda data: memoryview(data)[4:-4], id="slice"),
            pytest.param(lambda data: np.frombuffer(data, np.float32).reshape(8, -1), id="numpy"),
            pytest.param(lambda data: np.frombuffer(data, np.uint8), id="read-only numpy"),
        ],
    )
    def test_any_contiguous_buffer_goes_in(self, store: ObjectStore, write: str, make):
        buffer = make(bytes(range(256)) * 4)
        getattr(store, write)("buffer", buffer)
        assert store.get("buffer") == memoryview(buffer).tobytes()

    def test_a_mapped_file_goes_in(self, store: ObjectStore, tmp_path):
        path = tmp_path / "staging"
        path.write_bytes(bytes(range(256)) * 512)
        with (
            path.open("r+b") as file,
            mmap.mmap(file.fileno(), 0) as mapped,
            memoryview(mapped)[4096:-4096] as part,
        ):
            store.put("mapped", part)
            expected = bytes(part)
        assert store.get("mapped") == expected

    def test_ranges_go_into_memory_that_is_there(self, store: ObjectStore):
        data = np.random.default_rng(3).bytes(3_000_001)
        store.put("runs/a/one", data)
        memory = bytearray(b"?" * 3_000_010)
        view = memoryview(memory)
        assert store.read_into("runs/a/one", 0, view[:1_000_000]) == 1_000_000
        assert store.read_into("runs/a/one", 1_000_000, view[1_000_000:]) == 2_000_001
        assert memory == data + b"?" * 9
        pieces = [memoryview(bytearray(length)) for length in (0, 7, 1_999_993, 1_000_001, 5)]
        assert store.read_into("runs/a/one", 0, *pieces) == 3_000_001
        assert b"".join(pieces) == data + bytes(5)
        many = [memoryview(bytearray(3)) for _ in range(3000)]
        assert store.read_into("runs/a/one", 11, *many) == 9000
        assert b"".join(many) == data[11:9011]
        for start in (3_000_001, 5_000_000):  # at the end, and beyond it
            assert store.read_into("runs/a/one", start, view) == 0
        assert store.read_into("runs/a/one", 7, view[:0]) == 0
        assert memory == data + b"?" * 9

    def test_an_absent_object_or_a_negative_start_gives_no_range(self, store: ObjectStore):
        view = memoryview(bytearray(10))
        for part in (view, view[:0]):
            with pytest.raises(ObjectNotFoundError):
                store.read_into("runs/a/absent", 0, part)
        store.put("runs/a/one", b"1")
        with pytest.raises(InvalidInputError, match="negative"):
            store.read_into("runs/a/one", -1, view)

    def test_a_stored_object_does_not_follow_its_buffer(self, store: ObjectStore):
        buffer = bytearray(b"before")
        store.put("a", buffer)
        store.put_if_absent("b", buffer)
        buffer[:] = b"after!"
        assert (store.get("a"), store.get("b")) == (b"before", b"before")

    def test_ranges(self, store: ObjectStore):
        store.put("digits", b"0123456789")
        for start, length in [(0, 4), (4, 3), (7, 9), (9, 1), (10, 5), (99, 1), (0, 99), (3, 0)]:
            expected = b"0123456789"[start : start + length]
            assert store.get_range("digits", start, length) == expected, (start, length)

    def test_a_negative_range_is_refused(self, store: ObjectStore):
        store.put("digits", b"0123456789")
        for start, length in [(-1, 4), (0, -1)]:
            with pytest.raises(InvalidInputError, match="negative"):
                store.get_range("digits", start, length)

    def test_what_is_absent_is_said_to_be_so(self, store: ObjectStore):
        store.put("a/b", b"x")
        for key in ("none", "a", "a/b/c", "a/none"):
            with pytest.raises(ObjectNotFoundError, match=key):
                store.get(key)
            with pytest.raises(ObjectNotFoundError):
                store.head(key)
            with pytest.raises(ObjectNotFoundError):
                store.get_range(key, 0, 1)
            with pytest.raises(ObjectNotFoundError):
                store.get_range(key, 0, 0)

    def test_create_refuses_what_exists_and_keeps_it(self, store: ObjectStore, reopen: Reopen):
        store.put_if_absent("log/1", b"first")
        for second in (b"second", b"first", b""):
            with pytest.raises(ObjectExistsError, match="log/1"):
                reopen().put_if_absent("log/1", second)
        assert store.get("log/1") == b"first"
        store.put("data", b"put by the other verb")
        with pytest.raises(ObjectExistsError):
            store.put_if_absent("data", b"second")

    def test_of_eight_racing_creators_exactly_one_wins(self, store: ObjectStore, reopen: Reopen):
        with ThreadPoolExecutor(8) as pool:
            for round_number in range(5):
                key = f"race/{round_number}"
                gate = threading.Barrier(8)

                def create(writer: int, key: str = key, gate: threading.Barrier = gate) -> bool:
                    mine = reopen()
                    gate.wait()
                    try:
                        mine.put_if_absent(key, b"%d" % writer * 2000)
                    except ObjectExistsError:
                        return False
                    return True

                won = list(pool.map(create, range(8)))
                assert won.count(True) == 1
                assert store.get(key) == b"%d" % won.index(True) * 2000

    def test_listing_is_in_key_order_and_starts_after(self, store: ObjectStore):
        keys = ["a-b/x", "a.b", "a/b/1", "a/b/10", "a/b/2", "a/b/2/x", "a/bc", "ab", "b"]
        for key in reversed(keys):
            if not key.startswith("a/b/2/") or store.kind != "local":  # a file cannot be a folder
                store.put(key, key.encode())
        keys = sorted(info.key for info in store.list(""))
        assert [info.key for info in store.list("")] == keys
        assert len(keys) >= 8
        for prefix, after in itertools.product(
            ["", "a", "a/", "a/b", "a/b/", "a/b/1", "a/b/2", "b", "c", "a/b/1/"],
            ["", *keys, "a/", "a/b/11", "zz"],
        ):
            expected = [key for key in keys if key.startswith(prefix) and key > after]
            assert [info.key for info in store.list(prefix, after=after)] == expected, (
                prefix,
                after,
            )

    def test_listing_gives_sizes_and_times(self, store: ObjectStore):
        store.put("a/b", b"four")
        [info] = store.list("a/")
        assert info.size == 4
        head = store.head("a/b")
        assert (head.key, head.size) == ("a/b", 4)
        assert abs(head.modified - info.modified) <= 1  # HTTP's dates have whole seconds
        assert info.modified > 1_600_000_000

    def test_folders_are_named_once_and_sorted(self, store: ObjectStore):
        for key in ("runs/b/log/1", "runs/a/log/1", "runs/a/log/2", "runs/file", "runs-x/y", "z"):
            store.put(key, b"")
        assert store.list_folders("") == ["runs", "runs-x"]
        assert store.list_folders("runs/") == ["a", "b"]
        assert store.list_folders("runs") == ["a", "b"]
        assert store.list_folders("runs/a/") == ["log"]
        assert store.list_folders("runs/a/log/") == []
        assert store.list_folders("none/") == []

    def test_a_folder_goes_with_its_last_object(self, store: ObjectStore):
        store.put("runs/a/log/1", b"")
        store.delete("runs/a/log/1")
        assert store.list_folders("") == []
        assert store.list_folders("runs/") == []
        assert list(store.list("")) == []

    def test_delete_is_done_once_and_repeats_quietly(self, store: ObjectStore):
        store.put_if_absent("a/b", b"record")
        store.put("a/c", b"data")
        for key in ("a/b", "a/b", "a/c", "a/none", "none/none", "a"):
            store.delete(key)
        with pytest.raises(ObjectNotFoundError):
            store.get("a/b")
        store.put_if_absent("a/b", b"again")
        assert store.get("a/b") == b"again"

    def test_an_illegal_key_is_refused_by_every_verb(self, store: ObjectStore):
        for key in ILLEGAL_KEYS:
            for call in (
                store.get,
                lambda key: store.get_range(key, 0, 1),
                store.head,
                store.delete,
                lambda key: store.put(key, b""),
                lambda key: store.put_if_absent(key, b""),
            ):
                with pytest.raises(InvalidInputError, match="is no object key"):
                    call(key)
        assert list(store.list("")) == []

    def test_an_illegal_prefix_is_refused(self, store: ObjectStore):
        for prefix in ["/", "../", "a/../", "a//", "\0", "a\\", "..a/../"]:
            with pytest.raises(InvalidInputError, match="is no prefix"):
                store.list(prefix)
            with pytest.raises(InvalidInputError, match="is no prefix"):
                store.list_folders(prefix)


class SharedStoreConformance:
    """For a store that several processes reach. A subclass gives `target` and `reopen`, which mean the same place."""

    @pytest.fixture
    def target(self) -> StorageTarget:
        raise NotImplementedError

    def test_of_eight_racing_processes_exactly_one_wins(
        self, target: StorageTarget, reopen: Reopen
    ):
        rounds = 5
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager:
            gate = manager.Barrier(8)
            with ProcessPoolExecutor(8, mp_context=context) as pool:
                races = [pool.submit(race_to_create, target, gate, me, rounds) for me in range(8)]
                won = [race.result() for race in races]
        for number in range(rounds):
            winners = [writer for writer in range(8) if won[writer][number]]
            assert len(winners) == 1
            assert reopen().get(f"race/{number}") == b"%d" % winners[0] * 2000
