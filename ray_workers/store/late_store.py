"""A store that is opened by the first write to it, for a process that must come up while its store is away."""

from __future__ import annotations

import threading

from typing_extensions import Buffer

from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget

__all__ = ["LateStore"]


class LateStore:
    """Writes to the store of `target`. From any thread."""

    def __init__(self, target: StorageTarget) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._store: ObjectStore | None = None

    def put(self, key: str, data: Buffer) -> None:
        """As `ObjectStore.put`. Raises also what `StorageTarget.open` does, until that has succeeded once."""
        self._opened().put(key, data)

    def _opened(self) -> ObjectStore:
        with self._lock:
            if self._store is None:
                self._store = self._target.open().store
            return self._store
