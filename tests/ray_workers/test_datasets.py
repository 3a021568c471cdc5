from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from ray_workers.datasets import (
    DatasetRecord,
    dataset_key,
    ensure_dataset,
    parquet_bytes,
    read_parquet,
)
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    DigestMismatchError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import Root, StorageTarget

TABLE = pa.table(
    {"pixels": pa.FixedSizeListArray.from_arrays(pa.array(range(12)), 4), "label": [1, 2, 3]}
)


def build() -> bytes:
    return parquet_bytes(TABLE)


class Flaky(MemoryStore):
    """Loses the answers of the first creations: `landed` says for each whether its object is there nevertheless."""

    def __init__(self, landed):
        super().__init__("flaky")
        self.landed = list(landed)
        self.creations = 0

    def put_if_absent(self, key, data):
        self.creations += 1
        if self.landed:
            if self.landed.pop(0):
                super().put_if_absent(key, data)
            raise StoreUnavailableError("no answer")
        super().put_if_absent(key, data)


@pytest.fixture(params=["folder", "memory"])
def target(request, tmp_path):
    return StorageTarget(
        str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}"
    )


def round_trip(target):
    root = target.open(create=True)
    key = ensure_dataset(root, "three", build)
    assert key == ensure_dataset(root, "three", build) == dataset_key("three", build())
    assert [info.key for info in root.store.list("datasets/")] == [key]
    assert root.store.get(key) == build()
    assert read_parquet(target, key).equals(TABLE)
    return root, key


def test_what_is_put_is_read_back(target):
    round_trip(target)


def test_other_data_of_the_same_name_stand_beside_the_first(target):
    root, key = round_trip(target)
    other = ensure_dataset(root, "three", lambda: parquet_bytes(TABLE.slice(1)))
    assert other != key
    assert read_parquet(target, key).equals(TABLE)
    assert read_parquet(target, other).equals(TABLE.slice(1))


def test_one_flipped_bit_is_found(target):
    root, key = round_trip(target)
    data = bytearray(root.store.get(key))
    data[len(data) // 2] ^= 1
    root.store.delete(key)
    root.store.put(key, bytes(data))
    with pytest.raises(DigestMismatchError, match="Delete that object") as caught:
        read_parquet(target, key)
    assert caught.value.details["key"] == key


def test_what_is_there_is_never_put_again(target):
    root, key = round_trip(target)
    before = root.store.head(key)
    ensure_dataset(root, "three", build)
    assert root.store.head(key) == before


def test_an_absent_data_set_is_missing(target):
    target.open(create=True)
    with pytest.raises(ObjectNotFoundError):
        read_parquet(target, dataset_key("three", build()))


@pytest.mark.parametrize(
    "key", ["", "pawl.json", "datasets/../pawl.json", "datasets/three/x.parquet"]
)
def test_only_a_data_sets_key_is_read(target, key):
    with pytest.raises(InvalidInputError, match="not the key of a data set"):
        read_parquet(target, key)


@pytest.mark.parametrize("name", ["", "Three", "a/b", "..", "a..b", "-a", "a" * 101])
def test_a_name_that_makes_no_good_key_is_refused(name):
    with pytest.raises(InvalidInputError, match="data set name"):
        dataset_key(name, b"")


def test_a_record_of_the_same_data_is_silent_and_of_others_is_not(caplog):
    record = DatasetRecord("datasets/three/a.parquet")
    DatasetRecord("datasets/three/a.parquet").load_state_dict(record.state_dict())
    assert not caplog.records
    DatasetRecord("datasets/three/b.parquet").load_state_dict(record.state_dict())
    assert "datasets/three/a.parquet" in caplog.text
    assert "datasets/three/b.parquet" in caplog.text


def test_workers_that_race_all_succeed(tmp_path):
    root = StorageTarget(str(tmp_path)).open(create=True)
    together = threading.Barrier(8)

    def put(_):
        together.wait()
        return ensure_dataset(root, "three", build)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(put, range(8))) == {dataset_key("three", build())}
    assert len(list(root.store.list("datasets/"))) == 1


@pytest.mark.parametrize("landed", [[True], [False], [False, True], [False, False, True]])
def test_a_lost_answer_is_asked_for_again(landed):
    store = Flaky(landed)
    key = ensure_dataset(Root(store=store, root_id="0" * 32, url="memory://flaky"), "three", build)
    assert store.get(key) == build()


def test_a_store_that_never_answers_is_given_up():
    store = Flaky([False] * 9)
    with pytest.raises(StoreUnavailableError):
        ensure_dataset(Root(store=store, root_id="0" * 32, url="memory://flaky"), "three", build)
    assert store.creations == 4


def test_a_racer_between_the_look_and_the_creation_is_no_error(monkeypatch):
    store = MemoryStore("racer")
    store.put_if_absent(dataset_key("three", build()), build())

    def blind(key):
        raise ObjectNotFoundError("not yet", key=key)

    monkeypatch.setattr(store, "head", blind)
    with pytest.raises(ObjectExistsError):
        store.put_if_absent(dataset_key("three", build()), build())
    ensure_dataset(Root(store=store, root_id="0" * 32, url="memory://racer"), "three", build)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    target = StorageTarget(str(tmp_path))
    _, key = round_trip(target)

    def closed(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Path, "read_bytes", closed)  # file modes do not hold root back
    with pytest.raises(StoreRefusedError, match="not allowed"):
        read_parquet(target, key)


def test_a_disk_that_fails_is_unavailable(tmp_path):
    target = StorageTarget(str(tmp_path))
    _, key = round_trip(target)
    (tmp_path / key).unlink()
    (tmp_path / key).mkdir()
    with pytest.raises(StoreUnavailableError, match="failed"):
        read_parquet(target, key)


@pytest.mark.s3
def test_s3_with_keys_from_the_environment(s3_server, s3_bucket, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    round_trip(StorageTarget(f"s3://{s3_bucket}/some/prefix"))


@pytest.mark.s3
def test_s3_with_keys_of_the_target(s3_server, s3_bucket):
    credentials = S3Credentials(
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        region=s3_server.region,
        endpoint_url=s3_server.endpoint,
    )
    target = StorageTarget(f"s3://{s3_bucket}", credentials)
    root, key = round_trip(target)
    root.store.delete(key)
    with pytest.raises(ObjectNotFoundError):
        read_parquet(target, key)


@pytest.mark.s3
def test_s3_with_wrong_keys_is_refused(s3_server, s3_bucket):
    wrong = S3Credentials(
        access_key_id=s3_server.access_key,
        secret_access_key="wrong",
        endpoint_url=s3_server.endpoint,
    )
    with pytest.raises(StoreRefusedError) as caught:
        read_parquet(StorageTarget(f"s3://{s3_bucket}", wrong), dataset_key("three", build()))
    assert "wrong" not in str(caught.value)


def test_s3_with_nobody_there_is_unavailable():
    nowhere = S3Credentials(
        access_key_id="key", secret_access_key="secret", endpoint_url="http://127.0.0.1:1"
    )
    with pytest.raises(StoreUnavailableError, match="s3://bucket"):
        read_parquet(StorageTarget("s3://bucket", nowhere), dataset_key("three", build()))


def test_a_folder_is_read_without_s3fs(tmp_path):
    script = (
        "import sys; from ray_workers.datasets import *; from ray_workers.store.opening import StorageTarget; import pyarrow\n"
        f"target = StorageTarget({str(tmp_path)!r})\n"
        "key = ensure_dataset(target.open(create=True), 'three', lambda: parquet_bytes(pyarrow.table({'a': [1]})))\n"
        "read_parquet(target, key)\n"
        "assert not {'s3fs', 'obstore', 'torch', 'ray'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
