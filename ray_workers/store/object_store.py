"""The port: what Pawl needs of a store, and nothing more.

Nine verbs, because the log, the shards, the readers and the sweep need exactly these. Keys are `/`-separated `str`
relative to the root (no leading slash); bytes go in as any C-contiguous buffer, so that a mapped staging file is sent
without a copy. Required of every backend: an atomic `put_if_absent` of a small object, read-after-write on `get`, and
whole-object `put`. Listing is a hint: no rule of safety rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from typing_extensions import Buffer

__all__ = ["ObjectInfo", "ObjectStore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    key: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch by the store's own clock; information only."""


@runtime_checkable
class ObjectStore(Protocol):
    """A folder-like space of immutable objects below one root.

    Errors, for every verb: `StoreUnavailableError` when the call may succeed later (and, for writes, may have
    succeeded already); `StoreRefusedError` when a person must act (credentials, permission, full disk, no bucket).
    """

    @property
    def kind(self) -> str:
        """`s3`, `local` or `memory`: which primitive makes `put_if_absent` atomic here; kept in `pawl.json`."""

    @property
    def url(self) -> str:
        """The root as the user writes it, without credentials."""

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        """The whole object; of one larger than `at_most` bytes only the first `at_most` + 1.

        That is enough to refuse it, and a foreign or hostile object cannot fill the memory. Raises
        `ObjectNotFoundError`.
        """

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` (shorter only at the object's end). Raises `ObjectNotFoundError`."""

    def read_into(self, key: str, start: int, *targets: memoryview) -> int:
        """Fill the targets, one after the other, with one range from `start`.

        How many bytes there were, fewer only at the object's end. For ranges that are fetched side by side into memory
        that is there already. Raises `ObjectNotFoundError`.
        """

    def put(self, key: str, data: Buffer) -> None:
        """Store a whole object under a key that is used once; durable when it returns."""

    def put_if_absent(self, key: str, data: Buffer) -> None:
        """Create a small object atomically; durable when it returns.

        Raises `ObjectExistsError` when the key exists, whoever wrote it. On `StoreUnavailableError` the object may
        exist or may appear later: the caller resolves that (`log`), this port never guesses.
        """

    def head(self, key: str) -> ObjectInfo:
        """Raises `ObjectNotFoundError`."""

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix` and sorts after `after`, in key order."""

    def list_folders(self, prefix: str) -> Sequence[str]:
        """Names (one path segment each) directly below the folder `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove an object; absent is success."""
