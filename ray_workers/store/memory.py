"""Objects in this process's memory: the fast backend of tests, and the twin the others are compared with."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import Buffer

from ray_workers.store.buffers import flat_view, spread
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.errors import InvalidInputError, ObjectExistsError, ObjectNotFoundError
from ray_workers.store.key_syntax import check_folder, check_key, check_prefix
from ray_workers.store.object_store import ObjectInfo

__all__ = ["MemoryStore"]


@dataclass(frozen=True, slots=True)
class _Stored:
    data: bytes
    modified: float


class MemoryStore:
    """A dict behind a lock. Stores opened by the same name in one process share their objects."""

    _named: ClassVar[dict[str, MemoryStore]] = {}
    _named_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str = "unnamed") -> None:
        self._name = name
        self._objects: dict[str, _Stored] = {}
        self._lock = threading.Lock()

    @classmethod
    def named(cls, name: str) -> MemoryStore:
        """The store that every caller in this process gets for `name`."""
        with cls._named_lock:
            return cls._named.setdefault(name, cls(name))

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r})"

    @property
    def kind(self) -> str:
        return "memory"

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        data = self._stored(key).data
        return data if at_most is None else data[: at_most + 1]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise InvalidInputError(f"The range {start}+{length} of {key!r} is negative.", key=key)
        return self._stored(key).data[start : start + length]

    def read_into(self, key: str, start: int, *targets: memoryview) -> int:
        return spread(self.get_range(key, start, sum(map(len, targets))), targets)

    def put(self, key: str, data: Buffer) -> None:
        stored = _Stored(bytes(flat_view(data)), epoch_seconds())
        with self._lock:
            self._objects[check_key(key)] = stored

    def put_if_absent(self, key: str, data: Buffer) -> None:
        stored = _Stored(bytes(flat_view(data)), epoch_seconds())
        with self._lock:
            if self._objects.setdefault(check_key(key), stored) is not stored:
                raise ObjectExistsError(f"{key!r} exists already in {self.url}.", key=key)

    def head(self, key: str) -> ObjectInfo:
        stored = self._stored(key)
        return ObjectInfo(key=key, size=len(stored.data), modified=stored.modified)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            found = sorted(
                (key, stored)
                for key, stored in self._objects.items()
                if key.startswith(prefix) and key > after
            )
        return (
            ObjectInfo(key=key, size=len(stored.data), modified=stored.modified)
            for key, stored in found
        )

    def list_folders(self, prefix: str) -> Sequence[str]:
        folder = check_folder(prefix)
        below = (info.key.removeprefix(folder) for info in self.list(folder))
        return sorted({rest.partition("/")[0] for rest in below if "/" in rest})

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)

    def _stored(self, key: str) -> _Stored:
        with self._lock:
            stored = self._objects.get(check_key(key))
        if stored is None:
            raise ObjectNotFoundError(f"There is no object {key!r} in {self.url}.", key=key)
        return stored
