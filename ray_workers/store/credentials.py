"""Keys to an S3 store, in a form that travels to workers and never into a message or a `repr`."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ray_workers.store.errors import InvalidInputError

__all__ = ["S3Credentials", "check_endpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Credentials:
    """Each field that is None is taken from the usual AWS variable instead."""

    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    endpoint_url: str | None = None
    encryption: str | None = None
    """What the server encrypts each object with: `AES256`, `aws:kms` or `aws:kms:dsse`; None leaves it to the bucket."""
    kms_key_id: str | None = None

    def __post_init__(self) -> None:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise InvalidInputError(
                "Give access_key_id and secret_access_key together, or neither."
            )
        if self.endpoint_url is not None:
            check_endpoint(self.endpoint_url)


def check_endpoint(url: str) -> str:
    """Return `url` without a slash at its end, or raise `InvalidInputError`, which repeats nothing of it."""
    try:
        parts = urlsplit(url)
        legal = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        plain = parts.username is None and not (parts.query or parts.fragment)
    except ValueError:  # a port that is no number, a half-open bracket
        legal = plain = False
    if not (legal and plain):
        raise InvalidInputError(
            "The S3 endpoint (AWS_ENDPOINT_URL) must look like http://host:port or https://host, without user, "
            "password or query."
        )
    return url.rstrip("/")
