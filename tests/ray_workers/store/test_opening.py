from __future__ import annotations

import json
import pickle
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typing_extensions import Buffer

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    InvalidInputError,
    MalformedObjectError,
    NewerFormatError,
    ObjectExistsError,
    RunNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import (
    FORMAT,
    StorageTarget,
    normalise_url,
    open_root,
    open_store,
)
from ray_workers.store.s3 import S3Store
from tests.support.faulty_store import Call, Died, Fault, FaultyStore

REPOSITORY = Path(__file__).parents[3]
CANARY = "canary/SECRET+value="


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}"


def write_root(url: str, **changes: object) -> None:
    body = {"format": FORMAT, "root_id": "0" * 32, "kind": "memory"} | changes
    open_store(url).put("pawl.json", json.dumps(body).encode())


@pytest.mark.parametrize(
    ("url", "store", "opened"),
    [
        ("memory://a", MemoryStore, "memory://a"),
        ("memory://a/b/", MemoryStore, "memory://a/b"),
        ("s3://bucket", S3Store, "s3://bucket"),
        ("s3://bucket/", S3Store, "s3://bucket"),
        ("S3://bucket/some/prefix/", S3Store, "s3://bucket/some/prefix"),
        ("/data/some folder", LocalFolderStore, "/data/some folder"),
        ("file:///data/some%20folder", LocalFolderStore, "/data/some folder"),
        ("file://localhost/data/x", LocalFolderStore, "/data/x"),
    ],
)
def test_a_url_opens_the_store_it_names(url, store, opened):
    assert isinstance(open_store(url), store)
    assert open_store(url).url == opened


def test_a_relative_folder_is_the_same_one_in_every_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/somebody")
    assert normalise_url("./pawl-store") == str(tmp_path / "pawl-store")
    assert normalise_url("~/store") == "/home/of/somebody/store"
    target = StorageTarget("pawl-store")
    monkeypatch.chdir("/")
    assert target.open(create=True).url == str(tmp_path / "pawl-store")


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a\0b", "empty"),
        ("gs://bucket/x", "'gs'"),
        ("http://host/x", "'http'"),
        ("s3:/bucket", "two slashes"),
        ("s3://", "no name of a bucket"),
        ("s3:///prefix", "no name of a bucket"),
        ("s3://buc ket/x", "no name of a bucket"),
        ("s3://bucket/a//b", "not legal"),
        ("s3://bucket/../b", "not legal"),
        ("s3://bucket/a?x=1", "no credentials, port or query"),
        (f"s3://bucket/{'a' * 150}/{'b' * 150}", "300 characters"),
        ("file://otherhost/x", "three slashes"),
        ("file:///x?y=1", "three slashes"),
        ("~no-such-user-at-all/x", "home"),
    ],
)
def test_a_bad_url_gets_a_sentence(url, advice):
    for call in (open_store, normalise_url, StorageTarget):
        with pytest.raises(InvalidInputError, match=advice):
            call(url)


@pytest.mark.parametrize("url", ["s3://KEYID:SECRETVALUE@bucket/x", "s3://SECRETVALUE@bucket"])
def test_a_url_with_credentials_is_refused_and_not_repeated(url):
    with pytest.raises(InvalidInputError, match="no credentials") as caught:
        open_store(url)
    assert "SECRETVALUE" not in str(caught.value)
    assert "KEYID" not in str(caught.value)


def test_a_root_is_created_once_and_found_again(url):
    first = open_root(url, create=True)
    assert len(first.root_id) == 32
    assert json.loads(first.store.get("pawl.json")) == {
        "format": 1,
        "root_id": first.root_id,
        "kind": "memory",
    }
    assert open_root(url, create=False).root_id == first.root_id
    assert open_root(url, create=True).root_id == first.root_id
    assert [info.key for info in first.store.list("")] == ["pawl.json"]


def test_eight_that_create_one_root_agree_on_its_id(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        urls = [str(tmp_path / "root")] * 8
        ids = set(pool.map(lambda each: open_root(each, create=True).root_id, urls))
    assert len(ids) == 1


def test_a_lost_answer_to_the_creation_is_settled_by_the_next_start(url, monkeypatch):
    name = url.removeprefix("memory://")
    inner = MemoryStore(name)
    # Calls of the first start: look for the root, four of the probe, its removal, the creation.
    faulty = FaultyStore(inner, lambda call: Fault.LOSE_RESPONSE if _creates_root(call) else None)
    monkeypatch.setitem(MemoryStore._named, name, faulty)
    with pytest.raises(StoreUnavailableError):
        open_root(url, create=True)
    faulty = FaultyStore(inner, lambda call: Fault.DIE_BEFORE if _creates_root(call) else None)
    monkeypatch.setitem(MemoryStore._named, name, faulty)
    assert open_root(url, create=True).root_id == json.loads(inner.get("pawl.json"))["root_id"]


def test_a_root_that_is_taken_and_cannot_be_read_is_no_success(url, monkeypatch):
    class TakenAndAbsent(MemoryStore):
        def put_if_absent(self, key: str, data: Buffer) -> None:
            if key == "pawl.json":
                raise ObjectExistsError(f"{key!r} exists.", key=key)
            super().put_if_absent(key, data)

    name = url.removeprefix("memory://")
    monkeypatch.setitem(MemoryStore._named, name, TakenAndAbsent(name))
    with pytest.raises(ObjectExistsError):
        open_root(url, create=True)


def test_who_dies_before_the_creation_leaves_no_root(url, monkeypatch):
    name = url.removeprefix("memory://")
    inner = MemoryStore(name)
    faulty = FaultyStore(inner, lambda call: Fault.DIE_BEFORE if _creates_root(call) else None)
    monkeypatch.setitem(MemoryStore._named, name, faulty)
    with pytest.raises(Died):
        open_root(url, create=True)
    monkeypatch.setitem(MemoryStore._named, name, inner)
    with pytest.raises(RunNotFoundError):
        open_root(url, create=False)
    assert open_root(url, create=True).root_id


def _creates_root(call: Call) -> bool:
    return call.verb == "put_if_absent" and call.key == "pawl.json"


def test_reading_where_there_is_no_root_creates_nothing(tmp_path, url):
    with pytest.raises(RunNotFoundError, match=r"no Pawl store at .*nothing-here"):
        open_root(str(tmp_path / "nothing-here"), create=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunNotFoundError):
        open_root(url, create=False)
    assert list(open_store(url).list("")) == []


@pytest.mark.parametrize("create", [True, False])
def test_a_newer_format_is_refused_before_anything_is_written(url, create):
    write_root(url, format=FORMAT + 1, kind=["whatever", "comes"], root_id=None)
    with pytest.raises(NewerFormatError, match="install a newer Pawl"):
        open_root(url, create=create)
    assert [info.key for info in open_store(url).list("")] == ["pawl.json"]


@pytest.mark.parametrize("create", [True, False])
def test_a_root_of_another_kind_of_store_is_refused(tmp_path, create):
    LocalFolderStore(tmp_path).put("pawl.json", open_root_bytes("s3"))
    with pytest.raises(StoreRefusedError, match="'s3'"):
        open_root(str(tmp_path), create=create)


def open_root_bytes(kind: str) -> bytes:
    return json.dumps({"format": FORMAT, "root_id": "0" * 32, "kind": kind}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": true, "root_id": "00000000000000000000000000000000", "kind": "memory"}',
        b'{"format": 1, "root_id": "00000000000000000000000000000000"}',
        b'{"format": 1, "root_id": "short", "kind": "memory"}',
        b'{"format": 0, "root_id": "00000000000000000000000000000000", "kind": "memory"}',
    ],
)
def test_a_damaged_root_is_named(url, data):
    open_store(url).put("pawl.json", data)
    for create in (True, False):
        with pytest.raises(MalformedObjectError, match=r"pawl\.json") as caught:
            open_root(url, create=create)
        assert caught.value.details["key"] == "pawl.json"


def test_a_target_travels_and_shows_no_secret():
    target = StorageTarget(
        "s3://bucket/x",
        S3Credentials(access_key_id=f"id-{CANARY}", secret_access_key=CANARY, session_token=CANARY),
    )
    assert pickle.loads(pickle.dumps(target)) == target  # noqa: S301, TID251 - our own bytes
    assert CANARY not in repr(target) + str(target) + repr(target.credentials)


@pytest.mark.parametrize("half", [{"access_key_id": "a"}, {"secret_access_key": CANARY}])
def test_half_a_pair_of_keys_is_refused(half):
    with pytest.raises(InvalidInputError, match="together") as caught:
        S3Credentials(**half)
    assert CANARY not in str(caught.value)


def test_reading_a_folder_loads_neither_obstore_nor_anything_heavy(tmp_path):
    open_root(str(tmp_path), create=True)
    program = (
        "import sys; from ray_workers.store.opening import open_root;"
        f"open_root({str(tmp_path)!r}, create=False);"
        "heavy = {'obstore', 'torch', 'ray', 'prefect', 'numpy', 'pandas', 'pyarrow', 'asyncio'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
