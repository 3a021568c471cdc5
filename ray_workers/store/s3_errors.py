"""What an S3 server's refusal means, in our tree, and what to do about it.

obstore gives the status and S3's own code only inside its text, so they are read from there, once, here. Nothing else
of that text reaches a message: error documents repeat the caller's key id and what was signed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from ray_workers.store.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    PawlError,
    StoreRefusedError,
    StoreUnavailableError,
)

__all__ = ["S3Reply", "read_reply", "translate"]

_STATUS = re.compile(r"status code: (\d{3})")
_RETRIES = re.compile(r"after ([1-9]\d*) retries")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9._-]{1,60})\s*</Code>")

_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_TOKEN = "get fresh temporary credentials (AWS_SESSION_TOKEN)"  # noqa: S105 - a sentence
_REGION = "the bucket is in another region: set AWS_REGION to the bucket's"
_QUOTA = "the quota is used up: free some space, or raise the quota"
_NO_VERB = "this store lacks a request that Pawl needs: use another one"

_REFUSED = {
    "AccessDenied": "these credentials lack the permission. Pawl needs s3:GetObject, s3:PutObject and s3:ListBucket "
    "(without the last one S3 gives this answer for an absent object too)",
    "AccountProblem": "the account is blocked: ask who runs the store",
    "AllAccessDisabled": "the bucket is blocked: ask who runs the store",
    "AuthorizationHeaderMalformed": _REGION,
    "EntityTooLarge": "the object is larger than the store allows",
    "ExpiredToken": _TOKEN,
    "InvalidAccessKeyId": f"the store does not know the access key: {_KEYS}",
    "InvalidBucketName": "the bucket's name is not legal",
    "InvalidToken": _TOKEN,
    "MethodNotAllowed": _NO_VERB,
    "NoSuchBucket": "the bucket does not exist: create it, or check the URL and AWS_ENDPOINT_URL",
    "NotImplemented": _NO_VERB,
    "PermanentRedirect": _REGION,
    "QuotaExceeded": _QUOTA,
    "RequestTimeTooSkewed": "this machine's clock differs from the store's: set it right",
    "SignatureDoesNotMatch": f"the secret key is wrong: {_KEYS}",
    "TokenRefreshRequired": _TOKEN,
}
_LATER_STATUS = {
    HTTPStatus.NOT_FOUND,  # without S3's NoSuchKey; see below
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_LATER_CODE = {"BadDigest", "IncompleteBody", "RequestTimeout"}

_MISFITS = [
    ("/latest/api/token", f"there are no S3 credentials: {_KEYS}"),
    ("/latest/meta-data", f"there are no S3 credentials: {_KEYS}"),
    ("redirect without LOCATION", _REGION),
    ("extract metadata from headers", "the answer is not as S3 defines it: use another store"),
    ("non-partial response", "the answer is not as S3 defines it: use another store"),
    ("invalid path", "an object with an illegal key lies below the root: move it away"),
]
"""Parts of the client's own words."""

_TRANSPORT = [
    ("ConnectionRefused", "the connection is refused"),
    ("dns error", "the host name does not resolve"),
    ("Timeout", "there is no answer in time"),
    ("TimedOut", "there is no answer in time"),
    ("certificate", "the TLS handshake fails"),
    ("InvalidContentType", "the TLS handshake fails"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Reply:
    """The part of a failure that is safe to repeat."""

    status: int | None
    """None when there was no HTTP answer."""
    code: str
    """S3's own, such as `NoSuchKey`; empty when the answer held none."""
    transport: str
    """What went wrong below HTTP; empty otherwise."""
    retried: bool = False
    """The client had sent the same request before; that first one may have been performed."""

    @property
    def taken(self) -> bool:
        """The key exists. Not so for 409: another conditional write is under way and may still fail."""
        return self.status == HTTPStatus.PRECONDITION_FAILED


def read_reply(error: Exception) -> S3Reply:
    text, _, debug = str(error).partition("Debug source")
    status = _STATUS.search(text)
    code = _CODE.search(text)
    return S3Reply(
        status=int(status.group(1)) if status else None,
        code=code.group(1) if code else "",
        transport="" if status or code else _transport(text, debug),
        retried=_RETRIES.search(text) is not None,
    )


def translate(error: Exception, attempt: str, key: str, endpoint: str) -> PawlError:
    """The error to raise for `error` of obstore.

    Args:
        error: what obstore raised.
        attempt: what was tried, as `read 'runs/a/log/1' in s3://bucket`.
        key: for the details.
        endpoint: as a person may read it.
    """
    reply = read_reply(error)
    start = f"Could not {attempt}"
    if reply.taken:
        return ObjectExistsError(f"{start}: it exists already.", key=key)
    if reply.code == "NoSuchKey":
        return ObjectNotFoundError(f"{start}: there is no such object.", key=key)
    refusal = _refusal(reply, str(error).partition("Debug source")[0])
    if refusal:
        return StoreRefusedError(
            f"{start}: {refusal}.", key=key, code=reply.code, retried=reply.retried
        )
    if reply.status == HTTPStatus.NOT_FOUND and not reply.code:
        # Not S3's words: a proxy, a load balancer or a wrong address. Taken for "absent" it would cut a log short.
        reason = "the answer is 404 without S3's reason; is AWS_ENDPOINT_URL an S3 endpoint?"
    elif reply.transport:
        reason = f"{reply.transport} at {endpoint}. Check that the store runs and AWS_ENDPOINT_URL"
    else:
        reason = f"the store answered {reply.status or ''} {reply.code}".rstrip()
    return StoreUnavailableError(f"{start}: {reason}. It may work later.", key=key, code=reply.code)


def _refusal(reply: S3Reply, text: str) -> str:
    if reply.code in _REFUSED:
        return _REFUSED[reply.code]
    for sign, meaning in _MISFITS:
        if sign in text:
            return meaning
    if reply.status == HTTPStatus.INSUFFICIENT_STORAGE:
        return _QUOTA
    later = reply.status in _LATER_STATUS or reply.code in _LATER_CODE
    if later or reply.status is None or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ""
    return f"the store answered {reply.status} {reply.code}".rstrip()


def _transport(text: str, debug: str) -> str:
    for sign, meaning in _TRANSPORT:
        if sign in debug or sign in text:
            return meaning
    return "the connection fails" if "HTTP error" in text else "the answer cannot be used"
