"""What is in a Prefect block, read raw by its name, and the S3 keys in blocks of prefect-aws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from ray_workers.store.errors import InvalidInputError

__all__ = ["block_document", "keys_of_block"]


def keys_of_block(reference: str) -> dict[str, Any]:
    """What `S3Credentials` takes, from a block of prefect-aws, which need not be installed here.

    Raises:
        InvalidInputError: no such block, or a setting of it that Pawl cannot follow.
    """
    slug, _, name = reference.partition("/")
    fields = _AWS_FIELDS.get(slug)
    if fields is None or not name:
        raise InvalidInputError(
            f"The credentials block {reference[:120]!r} is not of the form aws-credentials/NAME or minio-credentials/NAME."
        )
    document = block_document(slug, name)
    client: Mapping[str, Any] = document.get("aws_client_parameters") or {}
    unusable = [key for key in ("profile_name", "assume_role_arn") if document.get(key)] + [
        key for key in ("verify_cert_path",) if client.get(key)
    ]
    if client.get("verify") is False:
        unusable.append("verify=false")
    if unusable:
        raise InvalidInputError(
            f"The block {reference!r} sets {', '.join(unusable)}, which Pawl does not follow: use a block with plain keys, "
            "or give the workers a profile or role of their own and leave the credentials block empty."
        )
    found = {ours: document.get(theirs) for ours, theirs in fields.items()}
    found["endpoint_url"] = client.get("endpoint_url")
    return {name: value for name, value in found.items() if value}


_AWS_FIELDS: Mapping[str, Mapping[str, str]] = {
    "aws-credentials": {
        "access_key_id": "aws_access_key_id",
        "secret_access_key": "aws_secret_access_key",
        "session_token": "aws_session_token",
        "region": "region_name",
    },
    "minio-credentials": {
        "access_key_id": "minio_root_user",
        "secret_access_key": "minio_root_password",
        "region": "region_name",
    },
}


def block_document(slug: str, name: str) -> dict[str, Any]:
    """What is in the block, secrets included; read raw, so that the class that made it need not be installed.

    Raises:
        InvalidInputError: no such block on the server.
    """
    with get_client(sync_client=True) as client:
        try:
            found = client.read_block_document_by_name(name, slug, include_secrets=True)
        except ObjectNotFound:
            raise InvalidInputError(
                f"There is no block {slug}/{name} on this Prefect server: create it in the UI under Blocks, or "
                f"correct the name."
            ) from None
    return dict(found.data)
