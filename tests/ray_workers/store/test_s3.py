"""The S3 backend on a real Ceph gateway, with real keys, real refusals and a real death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ray_workers.store.errors import (
    ObjectNotFoundError,
    RunNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget, open_root
from ray_workers.store.s3 import S3Store
from ray_workers.store.s3_settings import S3Limits
from tests.ray_workers.store.store_conformance import (
    Reopen,
    SharedStoreConformance,
    StoreConformance,
)
from tests.support.ceph import CephCluster
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.s3

REPOSITORY = Path(__file__).parents[3]
MIB = 1 << 20


class TestS3Store(StoreConformance, SharedStoreConformance):
    @pytest.fixture
    def target(self, s3_server: S3Server, s3_bucket: str) -> StorageTarget:
        return StorageTarget(f"s3://{s3_bucket}/some/root", s3_server.credentials())

    @pytest.fixture
    def reopen(self, s3_server: S3Server, s3_bucket: str) -> Reopen:
        return lambda: S3Store(s3_bucket, "some/root", s3_server.credentials())

    @pytest.fixture
    def store(self, reopen: Reopen) -> ObjectStore:
        return reopen()


@pytest.fixture
def url(s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/root"


@pytest.fixture
def store(s3_server: S3Server, s3_bucket: str) -> S3Store:
    return S3Store(s3_bucket, "root", s3_server.credentials())


def test_a_root_is_created_and_found_by_another_process(s3_server, url):
    target = StorageTarget(url, s3_server.credentials())
    root = target.open(create=True)
    assert target.open(create=False).root_id == root.root_id
    assert [info.key for info in root.store.list("")] == ["pawl.json"]
    with pytest.raises(RunNotFoundError, match="no Pawl store at s3://"):
        open_root(f"{url}/elsewhere", create=False, credentials=target.credentials)


def test_the_usual_variables_are_enough(s3_server, url, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    assert open_root(url, create=True).root_id == open_root(url, create=False).root_id


def test_another_client_reads_what_was_put_in_parts(s3_server, s3_bucket, store):
    data = np.random.default_rng(0).bytes(33 * MIB + 5)
    store.put("shards/one", memoryview(data))
    client = s3_server.client()
    stored = client.get_object(Bucket=s3_bucket, Key="root/shards/one")
    assert stored["ETag"].endswith('-3"')  # three parts
    assert stored["Body"].read() == data
    assert store.get("shards/one") == data
    assert store.get_range("shards/one", 15 * MIB, 17 * MIB) == data[15 * MIB : 32 * MIB]
    assert client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads", []) == []


def test_a_listing_longer_than_one_page_is_whole(store):
    keys = [f"log/{number:020d}.json" for number in range(1_050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    assert [info.key for info in store.list("log/")] == keys
    assert [info.key for info in store.list("log/", after=keys[-3])] == keys[-2:]


def test_objects_of_others_with_odd_names_are_passed_over(s3_server, s3_bucket, store):
    store.put("a", b"")
    store.put("folder/b", b"")
    client = s3_server.client()
    for name in ("root/with space", "root/é", "root/odd folder/x", "elsewhere", "rooted"):
        client.put_object(Bucket=s3_bucket, Key=name, Body=b"")
    assert [info.key for info in store.list("")] == ["a", "folder/b"]
    assert store.list_folders("") == ["folder"]
    # What the web console leaves when somebody makes a folder.
    client.put_object(Bucket=s3_bucket, Key="root/folder/", Body=b"")
    assert [info.key for info in store.list("folder/")] == ["folder/b"]
    assert store.list_folders("") == ["folder"]


def test_a_key_that_no_path_can_have_is_refused_with_a_reason(s3_server, s3_bucket, store):
    s3_server.client().put_object(Bucket=s3_bucket, Key="root/a//b", Body=b"")
    with pytest.raises(StoreRefusedError, match="illegal key"):
        list(store.list(""))


@pytest.mark.parametrize("create", [True, False])
def test_a_wrong_secret_is_named(create, s3_server, url):
    wrong = replace(s3_server.credentials(), secret_access_key="CANARYSECRET")
    with pytest.raises(StoreRefusedError, match="secret key is wrong") as caught:
        open_root(url, create=create, credentials=wrong)
    assert "CANARY" not in str(caught.value)


def test_an_unknown_key_is_named(s3_server, url):
    unknown = replace(s3_server.credentials(), access_key_id="CANARYKEYID")
    with pytest.raises(StoreRefusedError, match="does not know the access key") as caught:
        open_root(url, create=True, credentials=unknown)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("create", [True, False])
def test_a_missing_bucket_is_named_and_not_made(create, s3_server):
    name = f"none-{uuid.uuid4().hex[:8]}"
    with pytest.raises(StoreRefusedError, match="bucket does not exist"):
        open_root(f"s3://{name}/root", create=create, credentials=s3_server.credentials())
    buckets = s3_server.client().list_buckets()["Buckets"]
    assert name not in [bucket["Name"] for bucket in buckets]


def test_a_missing_bucket_is_no_absent_object(s3_server):
    store = S3Store("no-such-bucket-here", "", s3_server.credentials())
    for call in (store.get, store.head, lambda key: list(store.list(key))):
        with pytest.raises(StoreRefusedError, match="bucket does not exist"):
            call("a")


def test_who_may_only_read_can_open_but_not_start(ceph, s3_server, url):
    reader = ceph.add_user("read-only").credentials()
    with pytest.raises(StoreRefusedError, match="s3:PutObject"):
        open_root(url, create=True, credentials=reader)
    root_id = open_root(url, create=True, credentials=s3_server.credentials()).root_id
    opened = open_root(url, create=False, credentials=reader)
    assert opened.root_id == root_id
    with pytest.raises(StoreRefusedError, match="s3:PutObject"):
        opened.store.put("a", b"x")
    with pytest.raises(StoreRefusedError, match="permission"):
        opened.store.delete("pawl.json")
    with pytest.raises(StoreRefusedError, match="s3:PutObject"):
        open_root(url, create=True, credentials=reader)
    keys = [info.key for info in opened.store.list("")]
    assert keys == ["pawl.json"]


@pytest.mark.usefixtures("s3_server")
def test_training_needs_no_right_to_delete(ceph):
    user = ceph.add_user("no-delete")
    url = f"s3://{user.new_bucket()}/root"
    root = open_root(url, create=True, credentials=user.credentials())
    keys = [info.key.split("/")[0] for info in root.store.list("")]
    assert keys == ["pawl.json", "probe"]
    root.store.put("shards/big", bytes(17 * MIB))
    with pytest.raises(StoreRefusedError, match="permission"):
        root.store.delete("shards/big")


@pytest.mark.fault
def test_a_dead_gateway_is_named_in_time_and_a_new_one_serves_the_same_store(
    ceph: CephCluster, s3_server, store
):
    store.put_if_absent("log/1", b"kept")
    ceph.kill_gateway()
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="connection"):
            store.get("log/1")
        with pytest.raises(StoreUnavailableError, match=s3_server.endpoint.removeprefix("http://")):
            store.put_if_absent("log/2", b"x")
        assert time.monotonic() - started < 20
    finally:
        ceph.start_gateway()
    assert store.get("log/1") == b"kept"


@pytest.mark.fault
def test_a_gateway_that_hangs_is_given_up_and_waited_for(ceph: CephCluster, s3_server, s3_bucket):
    limits = S3Limits(connect_s=1, quick_s=1, bulk_s=2, retry_s=1, retries=1)
    store = S3Store(s3_bucket, "root", s3_server.credentials(), limits)
    store.put("a", b"x")
    gateway = ceph.pid("gateway")
    os.kill(gateway, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            store.put_if_absent("log/1", b"late")
    finally:
        os.kill(gateway, signal.SIGCONT)
    # The request was on its way: it may land now, or never. Whatever is there is whole.
    assert store.get("a") == b"x"
    for info in store.list("log/"):
        assert store.get(info.key) == b"late"


WRITER = textwrap.dedent(
    """
    import sys
    from ray_workers.store.opening import open_store

    store = open_store(sys.argv[1])
    print("ready", flush=True)
    store.put("shards/killed", bytes(256 << 20))
    """
)


@pytest.mark.fault
def test_a_writer_killed_in_mid_upload_leaves_no_object(s3_server, url, s3_bucket, store):
    client = s3_server.client()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url],
        env=s3_server.environment(),
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        while not client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads"):
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
    with pytest.raises(ObjectNotFoundError):
        store.get("shards/killed")
    assert list(store.list("")) == []
    store.put("shards/killed", b"the next try has a key of its own, and could even have this one")
