"""How the S3 client is set up: where it goes, who it is, and how long it tries. Pure; obstore is not imported here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from ray_workers.store.credentials import S3Credentials, check_endpoint
from ray_workers.store.errors import InvalidInputError

__all__ = ["S3Limits", "client_settings", "endpoint_of", "with_environment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Limits:
    """A silent endpoint is given up after `retry_s + quick_s` seconds at most (for bulk: `retry_s + bulk_s`)."""

    connect_s: float = 5.0
    quick_s: float = 10.0
    """For a whole request of up to 1 MiB."""
    bulk_s: float = 120.0
    """For a whole request that moves one part; eight of 16 MiB at once need about 1 MiB/s in all."""
    retry_s: float = 8.0
    """No retry begins later than this after the first try began."""
    retries: int = 3


@dataclass(frozen=True, slots=True)
class _StaticKeys:
    """Hands obstore exactly these keys, so that a stale AWS_SESSION_TOKEN in the environment is not mixed in."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)

    def __call__(self) -> dict[str, Any]:
        return {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "token": self.session_token,
            "expires_at": None,
        }


def endpoint_of(credentials: S3Credentials) -> str | None:
    """The endpoint's URL, None for AWS itself. Raises `InvalidInputError`."""
    endpoint = (
        credentials.endpoint_url
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    return check_endpoint(endpoint) if endpoint else None


def with_environment(credentials: S3Credentials) -> S3Credentials:
    """The same, with what this process would take from its AWS variables filled in: for a process that lacks them.

    Keys from elsewhere (instance profile, web identity) are not looked up: every machine has its own.
    """
    keys = _static_keys(credentials)
    return replace(
        credentials,
        access_key_id=None if keys is None else keys.access_key_id,
        secret_access_key=None if keys is None else keys.secret_access_key,
        session_token=None if keys is None else keys.session_token,
        region=credentials.region or _region(),
        endpoint_url=endpoint_of(credentials),
    )


def client_settings(
    credentials: S3Credentials, limits: S3Limits, *, timeout_s: float
) -> dict[str, Any]:
    """Keyword arguments for obstore's `S3Store`. Raises `InvalidInputError`."""
    endpoint = endpoint_of(credentials)
    config: dict[str, Any] = {
        "conditional_put": "etag",  # whatever AWS_CONDITIONAL_PUT says: without it there is no create-only
        "disable_bulk_delete": True,  # plain DELETE is what every server has
        "region": credentials.region or _region(),
        "unsigned_payload": True,  # every byte is digested by Pawl itself; signing it too costs 0.8 s/GiB
    }
    if endpoint:
        # Both, because the second one in the environment would win over the first one here.
        config |= {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint}
    if credentials.encryption:
        config["server_side_encryption"] = credentials.encryption
    if credentials.kms_key_id:
        config["sse_kms_key_id"] = credentials.kms_key_id
    settings: dict[str, Any] = {
        "config": config,
        "client_options": {
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": timedelta(seconds=limits.connect_s),
            "timeout": timedelta(seconds=timeout_s),
        },
        "retry_config": {
            "max_retries": limits.retries,
            "retry_timeout": timedelta(seconds=limits.retry_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    }
    keys = _static_keys(credentials)
    return settings | ({"credential_provider": keys} if keys else {})


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _static_keys(credentials: S3Credentials) -> _StaticKeys | None:
    if credentials.access_key_id and credentials.secret_access_key:
        return _StaticKeys(
            credentials.access_key_id, credentials.secret_access_key, credentials.session_token
        )
    key_id = os.environ.get("AWS_ACCESS_KEY_ID")
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY")
    if bool(key_id) != bool(secret):
        raise InvalidInputError(
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY together, or neither of them."
        )
    if key_id and secret:
        return _StaticKeys(key_id, secret, os.environ.get("AWS_SESSION_TOKEN") or None)
    return None  # obstore's own chain: web identity, container, instance profile
