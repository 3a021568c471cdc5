"""The server of the tests is itself what the tests assume: create-only, authenticated, durable, empty again."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from tests.support.ceph import CephCluster
from tests.support.s3_server import S3Server

pytestmark = [pytest.mark.s3, pytest.mark.long]


def refused(call: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def create(client: Any, bucket: str, body: bytes) -> None:
    client.put_object(Bucket=bucket, Key="k", Body=body, IfNoneMatch="*")


def test_a_second_create_only_put_is_refused_and_the_first_bytes_stay(s3_server, s3_bucket):
    client = s3_server.client()
    create(client, s3_bucket, b"first")
    with pytest.raises(ClientError) as caught:
        create(client, s3_bucket, b"second")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert client.get_object(Bucket=s3_bucket, Key="k")["Body"].read() == b"first"


def test_of_racing_creators_exactly_one_wins(s3_server, s3_bucket):
    client = s3_server.client()

    def attempt(number: int) -> bytes | None:
        try:
            create(client, s3_bucket, body := b"%d" % number)
        except ClientError:
            return None
        return body

    with ThreadPoolExecutor(8) as pool:
        winners = [body for body in pool.map(attempt, range(8)) if body is not None]
    assert winners == [client.get_object(Bucket=s3_bucket, Key="k")["Body"].read()]


def test_keys_are_checked(s3_server: S3Server, s3_bucket: str):
    wrong = replace(s3_server, secret_key="wrong").client()
    assert refused(wrong.list_objects_v2, Bucket=s3_bucket) == "SignatureDoesNotMatch"
    assert "wrong" not in repr(replace(s3_server, secret_key="wrong"))


def test_a_read_only_user_reads_and_may_not_write(ceph: CephCluster, s3_server, s3_bucket):
    create(s3_server.client(), s3_bucket, b"bytes")
    reader = ceph.add_user("read-only").client()
    assert reader.get_object(Bucket=s3_bucket, Key="k")["Body"].read() == b"bytes"
    assert refused(reader.put_object, Bucket=s3_bucket, Key="other", Body=b"") == "AccessDenied"
    assert refused(reader.delete_object, Bucket=s3_bucket, Key="k") == "AccessDenied"


@pytest.mark.usefixtures("s3_server")
def test_a_no_delete_user_writes_and_may_not_delete(ceph: CephCluster):
    user = ceph.add_user("no-delete")
    bucket, client = user.new_bucket(), user.client()
    create(client, bucket, b"bytes")
    assert refused(client.delete_object, Bucket=bucket, Key="k") == "AccessDenied"


def test_nothing_is_left_after_cleaning(ceph: CephCluster, s3_server, s3_bucket):
    client = s3_server.client()
    create(client, s3_bucket, b"bytes")
    client.create_multipart_upload(Bucket=s3_bucket, Key="never-finished")
    client.put_bucket_versioning(Bucket=s3_bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=s3_bucket, Key="k", Body=b"newer")
    client.delete_object(Bucket=s3_bucket, Key="k")
    ceph.clean()
    assert client.list_buckets()["Buckets"] == []


@pytest.mark.fault
def test_a_killed_gateway_refuses_connections_and_comes_back(ceph, s3_server, s3_bucket):
    create(s3_server.client(), s3_bucket, b"bytes")
    url = urlsplit(s3_server.endpoint)
    ceph.kill_gateway()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((url.hostname, url.port), timeout=5)
    ceph.start_gateway()
    assert s3_server.client().get_object(Bucket=s3_bucket, Key="k")["Body"].read() == b"bytes"


@pytest.mark.fault
def test_what_was_stored_survives_a_kill_of_every_daemon(ceph, s3_server, s3_bucket):
    create(s3_server.client(), s3_bucket, b"bytes")
    ceph.kill()
    ceph.start()
    assert s3_server.client().get_object(Bucket=s3_bucket, Key="k")["Body"].read() == b"bytes"


@pytest.mark.fault
def test_cleaning_starts_again_what_a_failed_test_left_dead(ceph, s3_server):
    ceph.kill_gateway()
    ceph.clean()
    assert s3_server.client().list_buckets()["Buckets"] == []
