"""Every refusal and failure of an S3 server, as the caller sees it."""

from __future__ import annotations

import itertools
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator

import pytest

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    PawlError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.s3 import S3Store
from ray_workers.store.s3_settings import S3Limits
from tests.support.s3_stub import Answer, S3Stub, error, s3_stub

FAST = S3Limits(connect_s=1, quick_s=1, bulk_s=1, retry_s=0.5, retries=1)
ONCE = S3Limits(connect_s=1, quick_s=1, bulk_s=1, retry_s=0.5, retries=0)
CANARIES = ["CANARYKEYID", "CANARYSECRET", "CANARYTOKEN"]

VERBS: dict[str, Callable[[S3Store], object]] = {
    "get": lambda store: store.get("log/1"),
    "get_range": lambda store: store.get_range("log/1", 0, 4),
    "head": lambda store: store.head("log/1"),
    "put": lambda store: store.put("log/1", b"x"),
    "put_if_absent": lambda store: store.put_if_absent("log/1", b"x"),
    "list": lambda store: list(store.list("log/")),
    "list_folders": lambda store: store.list_folders("log/"),
    "delete": lambda store: store.delete("log/1"),
}
READS = ["get", "get_range", "head"]


def open_s3(endpoint: str, limits: S3Limits = FAST) -> S3Store:
    credentials = S3Credentials(
        access_key_id="CANARYKEYID",
        secret_access_key="CANARYSECRET",
        session_token="CANARYTOKEN",
        endpoint_url=endpoint,
    )
    return S3Store("bucket", "root", credentials, limits)


Failure = Callable[[str, Answer], PawlError]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Stub]:
    """One server for the module; each test sets what it answers."""
    with s3_stub(lambda _: Answer()) as stub:
        yield stub


@pytest.fixture(scope="module")
def shared(server: S3Stub) -> S3Store:
    return open_s3(server.url, ONCE)


@pytest.fixture
def failure(server: S3Stub, shared: S3Store) -> Failure:
    """What `verb` raises when every request gets this answer; checked to hold no secret."""

    def fail(verb: str, answer: Answer) -> PawlError:
        server.answer = lambda _: answer
        with pytest.raises(PawlError) as caught:
            VERBS[verb](shared)
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        told += repr(caught.value.details) + str(pickle.dumps(caught.value))
        assert [canary for canary in CANARIES if canary in told] == []
        return caught.value

    return fail


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (403, "SignatureDoesNotMatch", "secret key is wrong"),
        (403, "InvalidAccessKeyId", "does not know the access key"),
        (403, "AccessDenied", "s3:PutObject"),
        (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "QuotaExceeded", "quota"),
        (507, "", "quota"),
        (404, "NoSuchBucket", "bucket does not exist"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (301, "PermanentRedirect", "AWS_REGION"),
        (405, "MethodNotAllowed", "use another one"),
        (501, "NotImplemented", "use another one"),
        (403, "SomethingNew", "403"),
        (401, "", "401"),
    ],
)
def test_what_a_person_must_mend_is_refused_with_what_to_do(verb, status, code, advice, failure):
    caught = failure(verb, error(status, code) if code else Answer(status=status))
    assert isinstance(caught, StoreRefusedError)
    assert advice in str(caught)
    assert "s3://bucket/root" in str(caught)


@pytest.mark.parametrize("verb", ["get", "head", "put_if_absent", "list", "delete"])
@pytest.mark.parametrize(
    "answer",
    [
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(429, "TooManyRequests"),
        error(400, "RequestTimeout"),
        error(409, "OperationAborted"),
        error(502, "BadGateway"),
        Answer(status=504),
        Answer(cut=True),
    ],
    ids=lambda answer: "cut" if answer.cut else str(answer.status),
)
def test_what_may_pass_is_unavailable(verb, answer, failure):
    caught = failure(verb, answer)
    assert isinstance(caught, StoreUnavailableError)
    assert "may work later" in str(caught)


@pytest.mark.parametrize("verb", READS)
def test_only_s3s_own_word_means_absent(verb, failure):
    assert isinstance(failure(verb, error(404, "NoSuchKey")), ObjectNotFoundError)
    # From a proxy or a wrong address. Taken for the end of the log, it would hide every later version.
    for foreign in (Answer(status=404), Answer(status=404, body=b"<html>not found</html>")):
        caught = failure(verb, foreign)
        assert isinstance(caught, StoreUnavailableError)
        assert "AWS_ENDPOINT_URL" in str(caught)


def test_delete_of_the_absent_is_success_but_only_by_s3s_word(failure):
    with s3_stub(lambda _: error(404, "NoSuchKey")) as stub:
        open_s3(stub.url).delete("a")
    assert isinstance(failure("delete", Answer(status=404)), StoreUnavailableError)


def test_412_is_taken_and_409_is_not(failure):
    assert isinstance(failure("put_if_absent", error(412, "PreconditionFailed")), ObjectExistsError)
    # Another conditional write is under way and may yet fail: nobody holds the key.
    conflict = failure("put_if_absent", error(409, "ConditionalRequestConflict"))
    assert isinstance(conflict, StoreUnavailableError)


def test_an_answer_that_is_not_s3s_is_refused(failure):
    caught = failure("put_if_absent", Answer(status=200))  # no ETag
    assert isinstance(caught, StoreRefusedError)
    whole = Answer(
        body=b"0123456789",
        headers={"ETag": '"x"', "Last-Modified": "Tue, 24 Nov 2026 03:00:00 GMT"},
    )
    assert isinstance(failure("get_range", whole), StoreRefusedError)  # ignores Range


def test_a_body_that_ends_early_is_not_taken_for_the_object(failure):
    cut_short = Answer(
        status=206,
        body=b"01",
        headers={
            "Content-Range": "bytes 0-9/10",
            "Content-Length": "10",
            "ETag": '"x"',
            "Last-Modified": "Tue, 24 Nov 2026 03:00:00 GMT",
        },
    )
    assert isinstance(failure("get", cut_short), StoreUnavailableError)


@pytest.mark.parametrize("verb", VERBS)
def test_a_refused_connection_is_named(verb):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(StoreUnavailableError, match="connection is refused") as caught:
        VERBS[verb](open_s3(f"http://127.0.0.1:{port}"))
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "AWS_ENDPOINT_URL" in str(caught.value)


def test_a_host_that_does_not_exist_is_named():
    with pytest.raises(StoreUnavailableError, match="does not resolve"):
        open_s3("http://no-such-host.invalid").get("a")


def test_tls_to_a_plain_server_is_named():
    with s3_stub(lambda _: Answer()) as stub:
        store = open_s3(stub.url.replace("http://", "https://"))
        with pytest.raises(StoreUnavailableError, match="TLS"):
            store.get("a")


@pytest.mark.parametrize("verb", ["get", "put_if_absent"])
def test_by_default_a_silent_endpoint_is_given_up_within_twenty_seconds(verb):
    limits = S3Limits()
    assert limits.quick_s + limits.retry_s <= 20
    # The same proportions, ten times as fast, so that the claim is tested and not only added up.
    scaled = S3Limits(connect_s=0.5, quick_s=1.0, bulk_s=12.0, retry_s=0.8, retries=3)
    with s3_stub(lambda _: Answer(silent=True)) as stub:
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            VERBS[verb](open_s3(stub.url, scaled))
        assert time.monotonic() - started < 2.5


def test_without_credentials_the_sentence_says_so(monkeypatch):
    # The client then asks the machine's metadata service; a stub plays one that has nothing to give.
    with s3_stub(lambda _: Answer(status=404)) as metadata:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.url)
        store = S3Store("bucket", "root", S3Credentials(endpoint_url="http://127.0.0.1:1"), FAST)
        with pytest.raises(StoreRefusedError, match="no S3 credentials: check AWS_ACCESS_KEY_ID"):
            store.get("a")


def _tries(stub: S3Stub) -> int:
    return len([request for request in stub.requests if request.method == "PUT"])


def test_a_passing_fault_is_retried_with_the_same_condition():
    answers = [error(503, "SlowDown"), Answer(headers={"ETag": '"x"'})]
    with s3_stub(lambda _: answers.pop(0)) as stub:
        open_s3(stub.url).put_if_absent("log/1", b"record")
        assert _tries(stub) == 2
        for request in stub.requests:
            assert request.headers["if-none-match"] == "*"
            assert request.body == b"record"


@pytest.mark.parametrize("first", [error(500, "InternalError"), error(503, "SlowDown")])
def test_a_create_refused_at_its_second_try_may_have_been_performed(first):
    answers = itertools.chain([first], itertools.repeat(error(403, "AccessDenied")))
    with s3_stub(lambda _: next(answers)) as stub:
        store = open_s3(stub.url)
        with pytest.raises(StoreUnavailableError, match=r"lack the permission.*it may exist"):
            store.put_if_absent("log/1", b"x")
        with pytest.raises(StoreRefusedError, match="lack the permission"):
            store.put_if_absent("log/1", b"x")


def test_our_own_landed_create_reads_as_taken():
    # The answer to the first try was lost; the log compares write ids (FORMAT.md §6).
    answers = [Answer(cut=True), error(412, "PreconditionFailed")]
    with s3_stub(lambda _: answers.pop(0)) as stub, pytest.raises(ObjectExistsError):
        open_s3(stub.url).put_if_absent("log/1", b"record")
