from __future__ import annotations

import contextlib
import json
import uuid

import pytest
from typing_extensions import Buffer

from ray_workers.store.errors import ObjectExistsError, StoreRefusedError, StoreUnavailableError
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import open_root
from ray_workers.store.probe import PROBE_PREFIX, probe_create_only
from tests.support.faulty_store import Fault, FaultyStore


class IgnoresCondition(MemoryStore):
    """As rclone's and s3rver's S3 do: the header is not read, the last writer wins."""

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self.put(key, data)


class AcceptsAndDrops(MemoryStore):
    """Answers 200 to the second create, and keeps the first object all the same."""

    def put_if_absent(self, key: str, data: Buffer) -> None:
        with contextlib.suppress(ObjectExistsError):
            super().put_if_absent(key, data)


class RefusesAndOverwrites(MemoryStore):
    """Answers 412, having stored the bytes before it looked."""

    def put_if_absent(self, key: str, data: Buffer) -> None:
        existed = any(info.key == key for info in self.list(""))
        self.put(key, data)
        if existed:
            raise ObjectExistsError(f"{key!r} exists.", key=key)


class Forgets(MemoryStore):
    """Answers 200 and keeps nothing."""

    def put_if_absent(self, key: str, data: Buffer) -> None:
        del key, data


class MayNotDelete(MemoryStore):
    def delete(self, key: str) -> None:
        raise StoreRefusedError("no DeleteObject", key=key)


class MeetsItself(MemoryStore):
    """A client that sends again after a lost answer: its first create of any key says that it exists."""

    def put_if_absent(self, key: str, data: Buffer) -> None:
        super().put_if_absent(key, data)
        raise ObjectExistsError(f"{key!r} exists.", key=key)


def test_a_store_that_keeps_creates_apart_passes_and_is_left_clean():
    store = MemoryStore()
    probe_create_only(store)
    assert list(store.list("")) == []


@pytest.mark.parametrize("bad", [IgnoresCondition, AcceptsAndDrops, RefusesAndOverwrites, Forgets])
def test_a_store_without_create_only_is_refused(bad):
    store = bad()
    with pytest.raises(StoreRefusedError, match="If-None-Match") as caught:
        probe_create_only(store)
    assert store.url in str(caught.value)
    assert list(store.list("")) == []


def test_without_the_right_to_delete_the_probe_stays_under_its_prefix():
    store = MayNotDelete()
    probe_create_only(store)
    probe_create_only(store)
    assert len(list(store.list(PROBE_PREFIX))) == 2
    assert len(list(store.list(""))) == 2


def test_a_client_that_meets_its_own_object_passes():
    probe_create_only(MeetsItself())


def test_an_unreachable_store_is_not_taken_for_a_bad_one():
    for call in (1, 2, 3):
        with pytest.raises(StoreUnavailableError):
            probe_create_only(FaultyStore(MemoryStore(), {call: Fault.UNAVAILABLE}))


def test_opening_for_writing_probes_and_creates_nothing_in_a_bad_store(monkeypatch):
    bad = IgnoresCondition(uuid.uuid4().hex)
    monkeypatch.setitem(MemoryStore._named, bad.url.removeprefix("memory://"), bad)
    with pytest.raises(StoreRefusedError, match="If-None-Match"):
        open_root(bad.url, create=True)
    assert list(bad.list("")) == []


def test_a_real_folder_passes_each_time(tmp_path):
    for _ in range(2):
        probe_create_only(LocalFolderStore(tmp_path))
    assert list(LocalFolderStore(tmp_path).list("")) == []


def test_the_probe_writes_valid_json_for_whoever_finds_it():
    store = MayNotDelete()
    probe_create_only(store)
    [info] = store.list(PROBE_PREFIX)
    assert set(json.loads(store.get(info.key))) == {"probe"}
