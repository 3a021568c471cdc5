"""Multipart uploads that nobody finished: they take space and no listing of objects shows them.

obstore has no call for them, so the one vendor client that has is used here and nowhere else. It is made when a sweeper
asks for the first time: training needs neither it nor the permissions (ListBucketMultipartUploads,
ListMultipartUploadParts, AbortMultipartUpload).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import PawlError, StoreRefusedError, StoreUnavailableError
from ray_workers.store.leftovers import Leftover

__all__ = ["S3Uploads"]

_TRANSIENT = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout"}


class S3Uploads:
    """The unfinished uploads below one root.

    Args:
        bucket: the bucket.
        prefix: the root's own prefix; may be empty.
        credentials: what it leaves out is taken from the usual AWS variables.
        endpoint: None: AWS itself.
    """

    def __init__(
        self, bucket: str, prefix: str, credentials: S3Credentials, endpoint: str | None
    ) -> None:
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._credentials = credentials
        self._endpoint = endpoint
        self._made: Any = None

    def leftovers(self, prefix: str) -> Iterator[Leftover]:
        """Those of keys that begin with `prefix`, with the bytes that their parts take."""
        with _Translated(f"list unfinished uploads in {self._bucket!r}"):
            pages = self._client().get_paginator("list_multipart_uploads")
            found = [
                upload
                for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._base}{prefix}")
                for upload in page.get("Uploads", [])
            ]
        for upload in found:
            key, handle = upload["Key"], upload["UploadId"]
            size = self._size(key, handle)
            if size is not None:
                yield Leftover(
                    key=key.removeprefix(self._base),
                    bytes=size,
                    what="unfinished upload",
                    handle=handle,
                )

    def remove_leftover(self, leftover: Leftover) -> None:
        """Abort one upload; one that is gone already is success."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - not loaded where nobody sweeps

        with _Translated(f"abort the upload of {leftover.key!r}"):
            try:
                self._client().abort_multipart_upload(
                    Bucket=self._bucket, Key=f"{self._base}{leftover.key}", UploadId=leftover.handle
                )
            except ClientError as error:
                if _code(error) != "NoSuchUpload":
                    raise

    def _size(self, key: str, upload: str) -> int | None:
        """Bytes of all parts; None: it was finished or aborted meanwhile."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - as above

        with _Translated(f"list the parts of {key!r}"):
            pages = self._client().get_paginator("list_parts")
            try:
                return sum(
                    int(part["Size"])
                    for page in pages.paginate(Bucket=self._bucket, Key=key, UploadId=upload)
                    for part in page.get("Parts", [])
                )
            except ClientError as error:
                if _code(error) == "NoSuchUpload":
                    return None
                raise

    def _client(self) -> Any:
        if self._made is None:
            import botocore.config  # noqa: PLC0415 - as above
            import botocore.session  # noqa: PLC0415 - as above

            given = self._credentials
            self._made = botocore.session.get_session().create_client(
                "s3",
                endpoint_url=self._endpoint,
                region_name=given.region or "us-east-1",
                aws_access_key_id=given.access_key_id,
                aws_secret_access_key=given.secret_access_key,
                aws_session_token=given.session_token,
                config=botocore.config.Config(
                    connect_timeout=5,
                    read_timeout=20,
                    retries={"total_max_attempts": 4},
                    s3={"addressing_style": "path" if self._endpoint else "auto"},
                    request_checksum_calculation="when_required",
                ),
            )
        return self._made


class _Translated:
    """Errors of the vendor's client as those of the tree, without the client's own text, which may hold a key id."""

    def __init__(self, action: str) -> None:
        self._action = action

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, PawlError):
            return
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as above

        if isinstance(error, ClientError):
            code = _code(error)
            kind = StoreUnavailableError if code in _TRANSIENT else StoreRefusedError
            raise kind(f"Could not {self._action}: the store answered {code}.") from None
        if isinstance(error, BotoCoreError):
            raise StoreUnavailableError(
                f"Could not {self._action}: {type(error).__name__}. It may work later."
            ) from None


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "no code"))
