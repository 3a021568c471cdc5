"""What goes over the wire: single PUTs, parts, ranges, and answers lost on the way."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ray_workers.store import s3
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import StoreRefusedError, StoreUnavailableError
from ray_workers.store.s3 import S3Store
from ray_workers.store.s3_settings import S3Limits
from tests.support.s3_stub import Answer, Request, S3Stub, error, s3_stub

REPOSITORY = Path(__file__).parents[3]
MIB = 1 << 20
LIMITS = S3Limits(connect_s=1, quick_s=5, bulk_s=5, retry_s=2, retries=1)
DATED = {"ETag": '"x"', "Last-Modified": "Tue, 24 Nov 2026 03:00:00 GMT"}


def open_s3(stub: S3Stub) -> S3Store:
    credentials = S3Credentials(
        access_key_id="key", secret_access_key="secret", endpoint_url=stub.url
    )
    return S3Store("bucket", "root", credentials, LIMITS)


class Bucket:
    """As much of S3 as the transfers need: one object, in parts or whole."""

    def __init__(self, data: bytes = b"", *, completion: Answer | None = None) -> None:
        self.data = data
        self.parts: dict[int, bytes] = {}
        self.completion = completion

    def __call__(self, request: Request) -> Answer:
        if request.method in {"GET", "HEAD"}:
            return self._read(request)
        if request.method == "POST" and "uploads" in request.path:
            upload = b"<R><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId></R>"
            return Answer(body=upload.replace(b"R>", b"InitiateMultipartUploadResult>"))
        if request.method == "PUT":
            part = re.search(r"partNumber=(\d+)", request.path)
            self.parts[int(part.group(1)) if part else 0] = request.body
            return Answer(headers=DATED)
        if request.method == "POST":
            if self.completion is not None:
                return self.completion
            self.data = b"".join(self.parts[number] for number in sorted(self.parts))
            done = b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
            return Answer(body=done)
        return Answer(status=204)

    def _read(self, request: Request) -> Answer:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if request.method == "HEAD" or asked is None:
            return Answer(body=self.data, headers=DATED)
        start, last = int(asked.group(1)), min(int(asked.group(2)), len(self.data) - 1)
        if start >= len(self.data):
            return error(416, "InvalidRange")
        return Answer(
            status=206,
            body=self.data[start : last + 1],
            headers=DATED | {"Content-Range": f"bytes {start}-{last}/{len(self.data)}"},
        )


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 20 * MIB])
def test_a_record_is_one_single_conditional_put_whatever_its_size(size):
    with s3_stub(Bucket()) as stub:
        open_s3(stub).put_if_absent("log/1", bytes(size))
        [request] = stub.requests
        assert (request.method, request.path) == ("PUT", "/bucket/root/log/1")
        assert request.headers["if-none-match"] == "*"
        assert len(request.body) == size


def test_data_is_sent_without_condition_and_without_hashing_it():
    with s3_stub(Bucket()) as stub:
        open_s3(stub).put("shard", b"x")
        [request] = stub.requests
        assert "if-none-match" not in request.headers
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_a_large_put_goes_in_parts_and_arrives_whole(tmp_path):
    size = 40 * MIB + 12_345
    path = tmp_path / "staging"
    path.write_bytes(np.random.default_rng(0).bytes(size))
    bucket = Bucket()
    with (
        s3_stub(bucket) as stub,
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        open_s3(stub).put("shard", mapped)  # closing the map fails if the client still held it
    assert [len(bucket.parts[number]) for number in (1, 2)] == [16 * MIB, 16 * MIB]
    assert len(bucket.parts) == 3
    assert bucket.data == path.read_bytes()


def test_ten_thousand_parts_are_never_needed():
    for size in (16 * MIB, 200 << 30, 5 << 40):
        assert size / s3._part_size(size) <= 9_000
    assert s3._part_size(100 << 30) == 16 * MIB


@pytest.mark.parametrize("stored", ["whole", "shorter", "nothing"])
def test_a_completion_whose_answer_was_lost_is_settled_by_looking(stored):
    data = bytes(20 * MIB)
    # The first answer never came; told again, the server knows no such upload any more.
    bucket = Bucket(data if stored == "whole" else b"short", completion=error(404, "NoSuchUpload"))

    def answer(request: Request) -> Answer:
        absent = stored == "nothing" and request.method in {"GET", "HEAD"}
        return error(404, "NoSuchKey") if absent else bucket(request)

    with s3_stub(answer) as stub:
        store = open_s3(stub)
        if stored == "whole":
            store.put("shard", data)
        else:
            with pytest.raises(StoreUnavailableError, match="NoSuchUpload"):
                store.put("shard", data)


@pytest.mark.parametrize(
    "completion",
    [
        error(200, "InternalError"),
        error(500, "InternalError"),
        Answer(status=404),
        Answer(cut=True),
    ],
)
def test_a_completion_that_failed_is_no_success(completion):
    data = bytes(20 * MIB)
    with s3_stub(Bucket(data, completion=completion)) as stub:
        store = open_s3(stub)
        with pytest.raises(StoreUnavailableError):
            store.put("shard", data)
        assert any(request.method == "DELETE" for request in stub.requests)  # parts given back


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 40 * MIB + 7])
def test_a_large_object_is_read_in_ranges_and_put_together(size):
    data = np.random.default_rng(size).bytes(size)
    with s3_stub(Bucket(data)) as stub:
        store = open_s3(stub)
        whole = store.get("shard")
        assert isinstance(whole, bytes)
        assert whole == data
        assert len(stub.requests) == 1 + max(0, -(-(size - MIB) // (16 * MIB)))
        assert store.get_range("shard", 5, size) == data[5:]
        assert store.get_range("shard", 100, MIB - 200) == data[100 : MIB - 100]


def test_a_range_that_fails_half_way_fails_the_read():
    bucket = Bucket(bytes(40 * MIB))

    def late_failure(request: Request) -> Answer:
        late = request.headers.get("range", "").startswith(f"bytes={MIB + 16 * MIB}-")
        return error(503, "SlowDown") if late else bucket(request)

    with s3_stub(late_failure) as stub:
        store = open_s3(stub)
        with pytest.raises(StoreUnavailableError):
            store.get("shard")


def test_a_range_shorter_than_asked_fails_the_read():
    bucket = Bucket(bytes(20 * MIB))

    def stingy(request: Request) -> Answer:
        late = request.headers.get("range", "").startswith(f"bytes={MIB + 16 * MIB}-")
        if not late:
            return bucket(request)
        start = MIB + 16 * MIB
        content_range = f"bytes {start}-{start + 9}/{len(bucket.data)}"
        return Answer(status=206, body=bytes(10), headers=DATED | {"Content-Range": content_range})

    with s3_stub(stingy) as stub:
        store = open_s3(stub)
        with pytest.raises(StoreUnavailableError, match="answer cannot be used"):
            store.get("shard")


def test_a_delete_is_the_request_that_every_server_has():
    with s3_stub(lambda _: Answer(status=204)) as stub:
        open_s3(stub).delete("shard")
        assert [(each.method, each.path) for each in stub.requests] == [
            ("DELETE", "/bucket/root/shard")
        ]


def test_a_forked_child_is_told_instead_of_hanging():
    # In a process of its own: forking the one that runs pytest is what this test warns of.
    program = textwrap.dedent(
        """
        import os, signal, sys
        from ray_workers.store.errors import StoreRefusedError
        from tests.ray_workers.store.test_s3_transfer import Bucket, open_s3
        from tests.support.s3_stub import s3_stub

        with s3_stub(Bucket(b"data")) as stub:
            store = open_s3(stub)
            assert store.get("a") == b"data"
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                try:
                    store.get("a")
                except StoreRefusedError as error:
                    os._exit(0 if "spawn" in str(error) else 2)
                os._exit(3)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_only_the_process_that_used_the_client_first_may_use_it(monkeypatch):
    with s3_stub(Bucket(b"data")) as stub:
        store = open_s3(stub)
        assert store.get("a") == b"data"
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(StoreRefusedError, match="spawn"):
            store.get("a")
