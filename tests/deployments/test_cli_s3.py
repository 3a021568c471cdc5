"""The read commands on a real S3 server, found by the AWS variables alone."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.store.opening import open_root
from tests.support.factories import MadeUpRun

pytestmark = pytest.mark.s3


@pytest.fixture
def url(s3_server, s3_bucket, monkeypatch):
    """A store with one run of one version; the environment names its server."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3_bucket}/some/prefix"
    run = MadeUpRun(store=open_root(url, create=True).store)
    run.start()
    run.commit(10)
    return url


def call(*words):
    return CliRunner().invoke(pawl, words)


def test_the_read_commands_answer(url):
    (row,) = json.loads(call("versions", "digits", "--json", "--storage", url).stdout)
    assert (row["number"], row["step"], len(row["shards"])) == (1, 10, 2)
    assert [row["run"] for row in json.loads(call("runs", "--json", "--storage", url).stdout)] == [
        "digits"
    ]
    verified = call("verify", "digits", "--storage", url)
    assert (verified.exit_code, "Nothing is damaged." in verified.stdout) == (0, True)


def test_damage_is_found(url, s3_server, s3_bucket):
    (row,) = json.loads(call("versions", "digits", "--json", "--storage", url).stdout)
    shard = row["shards"][0]
    s3_server.client().put_object(
        Bucket=s3_bucket, Key=f"some/prefix/{shard['key']}", Body=b"\0" * shard["bytes"]
    )
    verified = call("verify", "digits@1", "--json", "--storage", url)
    assert verified.exit_code == 1
    assert [bad["key"] for bad in json.loads(verified.stdout)["bad_objects"]] == [shard["key"]]


def test_wrong_keys_and_a_missing_bucket_are_one_sentence(url, monkeypatch):
    missing = call("runs", "--storage", "s3://no-such-bucket-here/prefix")
    assert (missing.exit_code, missing.stdout) == (2, "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    denied = call("runs", "--storage", url)
    assert (denied.exit_code, denied.stdout) == (2, "")
    for said in (missing.stderr, denied.stderr):
        assert said.startswith("Error: ")
        assert said.count("\n") == 1
        assert "wrong-secret" not in said
