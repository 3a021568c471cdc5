"""Objects in an S3 bucket, through obstore: AWS, Ceph, and whatever else honours `If-None-Match: *` on PutObject.

A record is one single PUT with that header: conditional completion of a multipart upload, and `If-Match`, are ignored
or broken on real servers (FORMAT.md §13). Every call ends in bounded time. The body is sent from the caller's buffer.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import obstore
import obstore.store
from obstore.exceptions import BaseError
from typing_extensions import Buffer

from ray_workers.store.buffers import flat_view, spread
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    InvalidInputError,
    ObjectNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.key_syntax import check_folder, check_key, check_prefix, is_key
from ray_workers.store.leftovers import Leftover
from ray_workers.store.object_store import ObjectInfo
from ray_workers.store.s3_errors import read_reply, translate
from ray_workers.store.s3_settings import S3Limits, client_settings, endpoint_of, with_environment
from ray_workers.store.s3_uploads import S3Uploads

__all__ = ["S3Store"]

_MIB = 1 << 20
_QUICK_BYTES = _MIB
"""Up to here a request is a small one, which must not take long on any link."""
_PART_BYTES = 16 * _MIB
_MAX_PARTS = 9_000
"""S3 allows 10 000."""
_PARTS_AT_ONCE = 8
_READS_AT_ONCE = 4
_process: int | None = None


class S3Store:
    """A store below `s3://bucket/prefix`.

    Args:
        bucket: an existing bucket; Pawl creates none.
        prefix: the root's own prefix, without slashes at its ends; may be empty.
        credentials: what it leaves out is taken from the usual AWS variables.
        limits: timeouts and retries.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        credentials: S3Credentials | None = None,
        limits: S3Limits | None = None,
    ) -> None:
        credentials = credentials or S3Credentials()
        limits = limits or S3Limits()
        self._url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._endpoint = endpoint_of(credentials) or "AWS"
        # Two clients, because a timeout covers the whole request: what is generous for a record is none for a part.
        self._quick = _connect(
            bucket, prefix, client_settings(credentials, limits, timeout_s=limits.quick_s)
        )
        self._bulk = _connect(
            bucket, prefix, client_settings(credentials, limits, timeout_s=limits.bulk_s)
        )
        self._uploads = S3Uploads(
            bucket, prefix, with_environment(credentials), endpoint_of(credentials)
        )

    def __repr__(self) -> str:
        return f"S3Store({self._url!r})"

    @property
    def kind(self) -> str:
        return "s3"

    @property
    def url(self) -> str:
        return self._url

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        return self._read(check_key(key), 0, None if at_most is None else at_most + 1)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise InvalidInputError(f"The range {start}+{length} of {key!r} is negative.", key=key)
        if length == 0:
            self.head(key)
            return b""
        return self._read(check_key(key), start, start + length)

    def read_into(self, key: str, start: int, *targets: memoryview) -> int:
        if start < 0:
            raise InvalidInputError(f"The start {start} in {key!r} is negative.", key=key)
        length = sum(map(len, targets))
        if not length:
            self.head(key)
            return 0
        with self._translated("read", check_key(key)):
            try:
                part = obstore.get_range(self._client(length), key, start=start, length=length)
            except BaseError as error:
                if read_reply(error).status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return 0
                raise
        return spread(part, targets)

    def put(self, key: str, data: Buffer) -> None:
        view = flat_view(data)
        with self._translated("write", check_key(key)):
            try:
                obstore.put(
                    self._client(view.nbytes),
                    key,
                    view,
                    use_multipart=view.nbytes > _PART_BYTES,
                    chunk_size=_part_size(view.nbytes),
                    max_concurrency=_PARTS_AT_ONCE,
                )
            except FileNotFoundError as error:
                # The client sent the completion again after its answer was lost, and the upload is no more. The key
                # is this try's own, so an object of this size under it is this one.
                completed = read_reply(error).code == "NoSuchUpload" and self._holds(
                    key, view.nbytes
                )
                if not completed:
                    raise

    def put_if_absent(self, key: str, data: Buffer) -> None:
        view = flat_view(data)
        try:
            with self._translated("create", check_key(key)):
                obstore.put(
                    self._client(view.nbytes), key, view, mode="create", use_multipart=False
                )
        except StoreRefusedError as error:
            if not error.details.get("retried"):
                raise
            # A 5xx may hide a success: refused was only the second try, so nobody knows whether the object is there.
            raise StoreUnavailableError(
                f"{error.message} An earlier try got no clear answer, so it may exist.", key=key
            ) from None

    def head(self, key: str) -> ObjectInfo:
        with self._translated("look up", check_key(key)):
            try:
                return _info(obstore.head(self._quick, key))
            except (BaseError, FileNotFoundError) as error:
                if read_reply(error).status is None:
                    raise
                # An answer to HEAD has no body, so neither has a refusal a reason. GET gives one, and it alone tells
                # S3's 404 from a proxy's.
                return _info(obstore.get(self._quick, key).meta)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        folder = check_prefix(prefix).rpartition("/")[0]
        return (
            info
            for info in self._listed(folder, after)
            if info.key.startswith(prefix) and info.key > after and is_key(info.key)
        )

    def list_folders(self, prefix: str) -> Sequence[str]:
        folder = check_folder(prefix)
        with self._translated("list", prefix):
            found = obstore.list_with_delimiter(self._quick, folder.rstrip("/") or None)
        names = (path.removeprefix(folder) for path in found["common_prefixes"])
        return sorted(name for name in names if is_key(name))

    def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectNotFoundError), self._translated("delete", check_key(key)):
            obstore.delete(self._quick, key)

    def leftovers(self, prefix: str) -> Iterator[Leftover]:
        """Multipart uploads that were not finished, those under way included."""
        return self._uploads.leftovers(prefix)

    def remove_leftover(self, leftover: Leftover) -> None:
        self._uploads.remove_leftover(leftover)

    def _client(self, size: int) -> obstore.store.S3Store:
        return self._quick if size <= _QUICK_BYTES else self._bulk

    def _holds(self, key: str, size: int) -> bool:
        try:
            return self.head(key).size == size
        except ObjectNotFoundError:
            return False

    def _listed(self, folder: str, after: str) -> Iterator[ObjectInfo]:
        with self._translated("list", folder):
            # The client rewrites an offset that is no key; what it lists too much is dropped by the caller.
            offset = after if is_key(after) else None
            for batch in obstore.list(self._quick, folder or None, offset=offset, chunk_size=1000):
                yield from map(_info, batch)

    def _read(self, key: str, start: int, stop: int | None) -> bytes:
        """Bytes `start` to `stop`, or to the end: one small request, and more at once only if that is not all."""
        first_stop = start + _QUICK_BYTES if stop is None else min(stop, start + _QUICK_BYTES)
        with self._translated("read", key):
            try:
                result = obstore.get(self._quick, key, options={"range": (start, first_stop)})
                first = result.bytes()
            except BaseError as error:
                if read_reply(error).status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return b""
                raise
        size = result.meta["size"]
        stop = size if stop is None else min(stop, size)
        if start + len(first) >= stop:
            return bytes(first)
        return self._read_rest(key, first, start, stop)

    def _read_rest(self, key: str, first: Buffer, start: int, stop: int) -> bytes:
        # BytesIO gives its own memory as `bytes`: the object is in memory once, not once more for the joining.
        whole = io.BytesIO()
        whole.seek(stop - start - 1)
        whole.write(b"\0")

        def fetch(offset: int) -> None:
            end = min(offset + _PART_BYTES, stop)
            with self._translated("read", key):
                part = obstore.get_range(self._bulk, key, start=offset, end=end)
            view[offset - start : end - start] = part

        with whole.getbuffer() as view, ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            head = memoryview(first)
            view[: len(head)] = head
            list(pool.map(fetch, range(start + len(head), stop, _PART_BYTES)))
        return whole.getvalue()

    @contextlib.contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        _refuse_in_forked_child()
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            attempt = f"{action} {key!r} in {self._url}"
            # Not chained: the text of the cause repeats the store's whole answer, key id included.
            raise translate(error, attempt, key, self._endpoint) from None


def _connect(bucket: str, prefix: str, settings: dict[str, Any]) -> obstore.store.S3Store:
    return obstore.store.S3Store(bucket, prefix=prefix or None, **settings)


def _info(meta: obstore.ObjectMeta) -> ObjectInfo:
    return ObjectInfo(
        key=meta["path"], size=meta["size"], modified=meta["last_modified"].timestamp()
    )


def _part_size(size: int) -> int:
    return max(_PART_BYTES, -(-size // _MAX_PARTS))


def _refuse_in_forked_child() -> None:
    """The client's threads do not survive a fork, and a call in the child would wait for them for ever."""
    global _process  # noqa: PLW0603 - one per process, which is what it is about
    if _process is None:
        _process = os.getpid()
    elif _process != os.getpid():
        raise StoreRefusedError(
            "This process was forked from one that had already used an S3 store, where the client cannot work: start "
            "it with the method 'spawn' instead (multiprocessing.get_context('spawn'))."
        )
