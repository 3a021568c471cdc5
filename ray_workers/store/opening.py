"""From a URL to an open store, with each way it can go wrong in one sentence."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    InvalidInputError,
    MalformedObjectError,
    NewerFormatError,
    ObjectExistsError,
    ObjectNotFoundError,
    RunNotFoundError,
    StoreRefusedError,
)
from ray_workers.store.key_syntax import is_key
from ray_workers.store.keys import ROOT_KEY
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.probe import probe_create_only

__all__ = [
    "FORMAT",
    "Root",
    "S3Credentials",
    "StorageTarget",
    "normalise_url",
    "open_root",
    "open_store",
]

FORMAT = 1
"""The newest layout of a root that this program reads and writes (FORMAT.md §1)."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_MAX_PREFIX = 300
_MAX_ROOT_BYTES = 64 * 1024
_HEX32 = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One opened root. All runs of one root share its store and its id."""

    store: ObjectStore
    root_id: str
    url: str


@dataclass(frozen=True, slots=True)
class StorageTarget:
    """Where the versions are, in a form that travels to actors and workers; a folder is made absolute here."""

    url: str
    credentials: S3Credentials | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", normalise_url(self.url))

    def for_other_machines(self) -> StorageTarget:
        """The same place for processes that do not have this one's environment: its AWS variables travel along."""
        if not self.url.startswith("s3://"):
            return self
        from ray_workers.store.s3_settings import with_environment  # noqa: PLC0415 - as below

        return StorageTarget(self.url, with_environment(self.credentials or S3Credentials()))

    def open(self, *, create: bool = False) -> Root:
        return open_root(self.url, create=create, credentials=self.credentials)


def normalise_url(url: str) -> str:
    """The same place for every process: an absolute path, or `s3://…` and `memory://…` without a slash at the end.

    Raises `InvalidInputError` for an unknown scheme, and for a URL that carries credentials, which it does not repeat.
    """
    if not url.strip() or "\0" in url:
        raise InvalidInputError("The storage URL is empty: give a folder or s3://bucket/prefix.")
    match = _SCHEME.match(url)
    if match is None:
        return _folder_path(url)
    scheme = match.group(1).lower()
    if scheme == "file":
        return _file_path(url)
    if scheme not in {"s3", "memory"}:
        raise InvalidInputError(
            f"Pawl does not know the storage scheme {scheme!r}: give a folder, file:///folder or s3://bucket/prefix."
        )
    return _bucket_url(scheme, url)


def open_store(url: str, *, credentials: S3Credentials | None = None) -> ObjectStore:
    """The store below `url`. Nothing is read, written or created yet."""
    url = normalise_url(url)
    if url.startswith("s3://"):
        from ray_workers.store.s3 import S3Store  # noqa: PLC0415 - obstore is not loaded to read a folder

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        return S3Store(bucket, prefix, credentials or S3Credentials())
    if url.startswith("memory://"):
        return MemoryStore.named(url.removeprefix("memory://"))
    return LocalFolderStore(url)


def open_root(url: str, *, create: bool, credentials: S3Credentials | None = None) -> Root:
    """Open the root at `url`, or with `create` make it if there is none.

    With `create` the store is also probed, so that an attempt learns here and not at its first commit that it may not
    write. Without it nothing is written.

    Raises:
        RunNotFoundError: there is no root, and `create` is false.
        NewerFormatError: a newer Pawl made this root.
        MalformedObjectError: `pawl.json` is damaged.
        StoreRefusedError, StoreUnavailableError: as `ObjectStore`; also a root made through another kind of store.
    """
    store = open_store(url, credentials=credentials)
    found = _read_root_id(store)
    if found is None and not create:
        raise RunNotFoundError(
            f"There is no Pawl store at {store.url}: check the URL, or start a run there to make one.",
            url=store.url,
        )
    if create:
        probe_create_only(store)
    return Root(store=store, root_id=found or _create_root(store), url=store.url)


def _create_root(store: ObjectStore) -> str:
    root_id = uuid.uuid4().hex
    body = {"format": FORMAT, "kind": store.kind, "root_id": root_id}
    try:
        store.put_if_absent(ROOT_KEY, json.dumps(body, separators=(",", ":")).encode())
    except ObjectExistsError:
        # Another process was first, or our own first try landed and its answer was lost. Either way theirs counts.
        winner = _read_root_id(store)
        if winner is None:
            raise
        return winner
    return root_id


def _read_root_id(store: ObjectStore) -> str | None:
    try:
        data = store.get(ROOT_KEY, at_most=_MAX_ROOT_BYTES)
    except ObjectNotFoundError:
        return None
    body = _parse_root(data, store.url)
    if body["kind"] != store.kind:
        raise StoreRefusedError(
            f"The store at {store.url} was made through the kind {body['kind']!r} and is now opened as "
            f"{store.kind!r}. The two create objects by different means, so use the first one always."
        )
    return str(body["root_id"])


def _parse_root(data: bytes, url: str) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    version = body.get("format") if isinstance(body, dict) else None
    if type(version) is int and version > FORMAT:
        raise NewerFormatError(
            f"The store at {url} has format {version}, and this Pawl reads up to {FORMAT}: install a newer Pawl."
        )
    if not (
        isinstance(body, dict)
        and type(version) is int
        and version == FORMAT
        and isinstance(body.get("kind"), str)
        and _HEX32.fullmatch(str(body.get("root_id")))
    ):
        raise MalformedObjectError(
            f"{ROOT_KEY!r} in {url} is damaged: it must be JSON with format, kind and root_id. Restore it from a "
            "copy, or choose another place.",
            key=ROOT_KEY,
        )
    return body


def _folder_path(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as error:  # `~name` of nobody
        raise InvalidInputError(f"The folder {path[:120]!r} names no user's home.") from error


def _file_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
        raise InvalidInputError(
            "A file URL names a folder on this machine: write file:///folder, with three slashes."
        )
    return str(Path(unquote(parts.path)).absolute())


def _bucket_url(scheme: str, url: str) -> str:
    rest = url.partition(":")[2]
    if not rest.startswith("//"):
        raise InvalidInputError(f"Write {scheme}:// with two slashes: {scheme}://bucket/prefix.")
    authority, _, path = rest.removeprefix("//").partition("/")
    if any(character in authority for character in "@:?#") or any(c in path for c in "?#"):
        raise InvalidInputError(
            "The storage URL must hold no credentials, port or query: write s3://bucket/prefix, and give keys and "
            "endpoint in the AWS variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)."
        )
    if not _NAME.fullmatch(authority):
        raise InvalidInputError(
            f"{authority[:100]!r} is no name of a bucket: write s3://bucket/prefix."
        )
    prefix = path.strip("/")
    if prefix and not (len(prefix) <= _MAX_PREFIX and is_key(prefix)):
        raise InvalidInputError(
            f"The prefix {prefix[:120]!r} is not legal: use letters, digits, '.', '_', '-', '=', '+' and '@' between "
            f"single slashes, {_MAX_PREFIX} characters at most."
        )
    return f"{scheme}://{authority}/{prefix}".rstrip("/")
