from __future__ import annotations

import dataclasses

import pytest

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.s3 import S3Store
from ray_workers.store.s3_settings import S3Limits, client_settings, endpoint_of, with_environment
from tests.support.s3_stub import Answer, Request, s3_stub

HEADERS = {"ETag": '"x"', "Last-Modified": "Tue, 24 Nov 2026 03:00:00 GMT"}
KEYS = S3Credentials(access_key_id="ours", secret_access_key="secret")


@pytest.fixture(autouse=True)
def _no_aws_variables(monkeypatch):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)


def one_request(credentials: S3Credentials | None = None) -> Request:
    """What the server sees of `head`, with the endpoint taken from the environment by the caller's own set-up."""
    with s3_stub(lambda _: Answer(headers=HEADERS)) as stub:
        credentials = credentials or S3Credentials()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", stub.url)
            S3Store("bucket", "root", credentials).head("a")
        return stub.requests[0]


def test_keys_and_region_come_from_the_usual_variables(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    monkeypatch.setenv("AWS_REGION", "eu-central-9")
    request = one_request()
    assert "Credential=from-environment/" in request.headers["authorization"]
    assert "/eu-central-9/s3/" in request.headers["authorization"]
    assert request.headers["x-amz-security-token"] == "a-token"
    assert request.path == "/bucket/root/a"


def test_given_keys_win_and_are_not_mixed_with_the_environments_token(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "stale")
    request = one_request(KEYS)
    assert "Credential=ours/" in request.headers["authorization"]
    assert "x-amz-security-token" not in request.headers


def test_a_given_endpoint_wins_over_both_variables(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with s3_stub(lambda _: Answer(headers=HEADERS)) as stub:
        given = S3Credentials(
            access_key_id="ours", secret_access_key="secret", endpoint_url=f"{stub.url}/"
        )
        S3Store("bucket", "", given).head("a")
        assert stub.requests[0].path == "/bucket/a"


def test_the_s3_variable_wins_over_the_general_one(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1")
    assert endpoint_of(S3Credentials()) == "http://general:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special:2")
    assert endpoint_of(S3Credentials()) == "http://special:2"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    assert endpoint_of(S3Credentials()) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://user:SECRETVALUE@host:9000",
        "http://SECRETVALUE@host",
        "http://host/?token=SECRETVALUE",
        "ftp://SECRETVALUE",
        "SECRETVALUE:9000",
        "http://:9000",
        "http://host:SECRETVALUE",
        "http://[SECRETVALUE",
    ],
)
def test_an_endpoint_that_may_hold_a_secret_is_refused_and_not_repeated(url, monkeypatch):
    with pytest.raises(InvalidInputError, match="AWS_ENDPOINT_URL") as caught:
        S3Credentials(endpoint_url=url)
    assert "SECRETVALUE" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(InvalidInputError, match="AWS_ENDPOINT_URL"):
        S3Store("bucket")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_a_pair_of_keys_in_the_environment_is_refused(name, monkeypatch):
    monkeypatch.setenv(name, "SECRETVALUE")
    with pytest.raises(InvalidInputError, match="together") as caught:
        S3Store("bucket")
    assert "SECRETVALUE" not in str(caught.value)


def test_plain_http_only_when_the_endpoint_says_so():
    for url, allowed in [("http://host:1", True), ("https://host", False)]:
        settings = client_settings(S3Credentials(endpoint_url=url), S3Limits(), timeout_s=1)
        assert settings["client_options"]["allow_http"] is allowed
    settings = client_settings(S3Credentials(), S3Limits(), timeout_s=1)
    assert settings["client_options"]["allow_http"] is False


def test_the_environment_cannot_switch_the_condition_off(monkeypatch):
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    with s3_stub(lambda _: Answer(headers=HEADERS)) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        S3Store("bucket", "", KEYS).put_if_absent("a", b"x")
        assert stub.requests[0].headers["if-none-match"] == "*"


def test_nothing_of_the_client_shows_the_keys():
    settings = client_settings(
        S3Credentials(
            access_key_id="CANARYKEY", secret_access_key="CANARY", session_token="CANARYTOKEN"
        ),
        S3Limits(),
        timeout_s=1,
    )
    assert "CANARY" not in repr(settings)
    assert "CANARY" not in repr(S3Store("bucket", "", KEYS))


def test_encryption_at_rest_is_asked_for_with_every_object_written():
    with s3_stub(lambda _: Answer(headers=HEADERS)) as stub:
        keys = S3Credentials(
            access_key_id="ours",
            secret_access_key="secret",
            endpoint_url=stub.url,
            encryption="aws:kms",
            kms_key_id="key-1",
        )
        S3Store("bucket", "", keys).put("a", b"x")
        S3Store("bucket", "", keys).put_if_absent("b", b"x")
        sent = [request.headers for request in stub.requests]
    assert [h["x-amz-server-side-encryption"] for h in sent] == ["aws:kms"] * 2
    assert [h["x-amz-server-side-encryption-aws-kms-key-id"] for h in sent] == ["key-1"] * 2


def test_what_the_environment_gives_travels_to_other_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000/")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    found = with_environment(S3Credentials(encryption="AES256"))
    assert found == S3Credentials(
        access_key_id="id",
        secret_access_key="secret",
        region="eu-west-1",
        endpoint_url="http://store:9000",
        encryption="AES256",
    )
    own = S3Credentials(access_key_id="a", secret_access_key="b", session_token="c", region="r")
    assert with_environment(own) == dataclasses.replace(own, endpoint_url="http://store:9000")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert with_environment(S3Credentials()).access_key_id is None
