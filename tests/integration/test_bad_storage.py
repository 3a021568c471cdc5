"""Storage that cannot be used, on a real Prefect server, training left out: one sentence, and nothing is half made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.without_training import Calls, newest_flow_run, pawl_train
from tests.support.ceph import CephCluster
from tests.support.real_folders import immutable, small_disk
from tests.support.s3_server import S3Server

pytestmark = [pytest.mark.prefect, pytest.mark.fault]


def assert_refused(sentence: str, *words: str) -> None:
    """One sentence, a flow run that nobody tries again, no training."""
    result = pawl_train(*words)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert sentence in line
    flow_run = newest_flow_run()
    assert flow_run.state is not None
    assert (flow_run.state.type.value, flow_run.run_count) == ("FAILED", 1)


@pytest.fixture(autouse=True)
def _nothing_trained(calls: Calls) -> Iterator[None]:
    yield
    assert calls == []


def test_a_folder_that_nobody_may_write() -> None:
    Path("store").mkdir()
    with immutable(Path("store")):
        assert_refused("lsattr")
    assert list(Path("store").iterdir()) == []


def test_a_full_disk() -> None:
    with small_disk(Path("disk"), "64k") as disk:
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(bytes(1 << 20))
        assert_refused("disk is full", "--storage", "disk/store")
        assert [path.name for path in disk.rglob("*") if path.is_file()] == ["filler"]


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """This one may be back later, so the flow tries again, and then says so."""
    nobody = S3Server(endpoint="http://127.0.0.1:9", access_key="key", secret_key="secret")
    use(monkeypatch, nobody)
    result = pawl_train("--storage", "s3://bucket/pawl", "--retries", "0")
    assert result.exit_code == 75, result.output
    assert "Error: " in result.stderr


@pytest.mark.s3
class TestOnS3:
    def test_a_wrong_secret(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, replace(s3_server, secret_key="CANARY"))
        assert_refused("secret key is wrong", "--storage", f"s3://{s3_server.new_bucket()}/pawl")

    def test_a_bucket_that_is_not_there(
        self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, s3_server)
        assert_refused("bucket does not exist", "--storage", "s3://no-such-bucket-here/pawl")

    def test_a_user_who_may_not_write(
        self, ceph: CephCluster, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket = s3_server.new_bucket()
        use(monkeypatch, ceph.add_user("read-only"))
        assert_refused("s3:PutObject", "--storage", f"s3://{bucket}/pawl")
        assert "Contents" not in s3_server.client().list_objects_v2(Bucket=bucket)


def use(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
