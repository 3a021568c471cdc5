"""Training data kept beside the versions: put once as Parquet, read back through pyarrow, checked before use.

A data set is named by the SHA-256 of its bytes. So it can be put by every worker at once, is never changed, and a run
that reads other data than before has another key to show for it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    DigestMismatchError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import Root, StorageTarget
from ray_workers.store.s3_settings import endpoint_of

__all__ = ["DatasetRecord", "dataset_key", "ensure_dataset", "parquet_bytes", "read_parquet"]

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?")
_KEY = re.compile(r"datasets/[a-z0-9._-]+/([0-9a-f]{64})\.parquet")
_TRIES = 4
_log = logging.getLogger("pawl")


def dataset_key(name: str, data: bytes) -> str:
    """`datasets/<name>/<SHA-256 of the bytes>.parquet`. Raises `InvalidInputError` for an illegal name."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidInputError(
            f"The data set name {name[:120]!r} is not legal: use 1 to 100 lower-case letters, digits, '.', '_' or '-', "
            "beginning and ending with a letter or digit, without '..'."
        )
    return f"datasets/{name}/{hashlib.sha256(data).hexdigest()}.parquet"


def parquet_bytes(table: Any) -> bytes:
    """One Parquet file; the same table gives the same bytes under the same pyarrow."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def ensure_dataset(root: Root, name: str, build: Callable[[], bytes]) -> str:
    """Put a data set below the root unless it is there, and return its key.

    Any number of workers may call this at once, with the same bytes or with others; nothing is ever overwritten.

    Args:
        root: an opened root.
        name: what the data is, for people.
        build: makes the Parquet file; called every time, because the bytes are the name.
    """
    data = build()
    key = dataset_key(name, data)
    try:
        root.store.head(key)
    except ObjectNotFoundError:
        _create(root.store, key, data)
    return key


class DatasetRecord:
    """Part of a session's `extra`: every version then says on which data it was trained.

    A run that resumes on other data is told so and goes on; a fork may want just that.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    def state_dict(self) -> dict[str, str]:
        return {"key": self.key}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state["key"] != self.key:
            _log.warning(
                "The resumed version was trained on the data set %s, and this run goes on with %s: its results will "
                "differ from an uninterrupted run.",
                state["key"],
                self.key,
            )


def _create(store: ObjectStore, key: str, data: bytes) -> None:
    for attempt in range(_TRIES):
        try:
            store.put_if_absent(key, data)
        except ObjectExistsError:
            # Another worker, or our own unanswered try: the same bytes, because the key is their digest.
            return
        except StoreUnavailableError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.1 * 2**attempt)
        else:
            return


def read_parquet(target: StorageTarget, key: str) -> Any:
    """The `pyarrow.Table` under `key`, after its bytes have been found to be those that were put.

    Raises:
        DigestMismatchError: the object is damaged.
        ObjectNotFoundError, StoreRefusedError, StoreUnavailableError: it cannot be read.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise InvalidInputError(f"{key[:200]!r} is not the key of a data set.")
    data = _read(target, key)
    found = hashlib.sha256(data).hexdigest()
    if found != match.group(1):
        raise DigestMismatchError(
            f"The data set {key} at {target.url} is damaged: its SHA-256 is {found}. Delete that object; the next "
            "start of the run puts it again.",
            key=key,
            found=found,
        )
    return pyarrow.parquet.read_table(pa.BufferReader(data), use_threads=False)


def _read(target: StorageTarget, key: str) -> bytes:
    where = f"the data set {key} at {target.url}"
    try:
        if target.url.startswith("memory://"):
            return target.open().store.get(key)
        if target.url.startswith("s3://"):
            return _read_s3(target, key)
        return Path(target.url, key).read_bytes()
    except FileNotFoundError as error:
        raise ObjectNotFoundError(f"There is no {where.removeprefix('the ')}.", key=key) from error
    except PermissionError as error:
        raise StoreRefusedError(f"Reading {where} is not allowed: {error}.") from error
    except OSError as error:
        raise StoreUnavailableError(f"Reading {where} failed: {error}.") from error


def _read_s3(target: StorageTarget, key: str) -> bytes:
    """By s3fs, as users' own pandas and pyarrow code reads; empty credentials come from the AWS variables."""
    # A run on a folder loads neither.
    import s3fs  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    credentials = target.credentials or S3Credentials()
    endpoint = endpoint_of(credentials)
    region = (
        credentials.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    )
    filesystem = s3fs.S3FileSystem(
        key=credentials.access_key_id,
        secret=credentials.secret_access_key,
        token=credentials.session_token,
        endpoint_url=endpoint,
        client_kwargs={"region_name": region or "us-east-1"},
        config_kwargs={
            "connect_timeout": 10,
            "read_timeout": 60,
            "s3": {"addressing_style": "path" if endpoint else "auto"},
        },
        skip_instance_cache=True,
    )
    try:
        return bytes(filesystem.cat_file(f"{target.url.removeprefix('s3://')}/{key}"))
    except BotoCoreError as error:
        raise StoreUnavailableError(
            f"Reading the data set {key} at {target.url} failed: {error}."
        ) from error
