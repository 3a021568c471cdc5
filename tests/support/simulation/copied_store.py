"""A store in memory that begins as a copy of other objects, and tells what it holds, at the price of two dicts."""

from __future__ import annotations

from collections.abc import Mapping

from ray_workers.store.clock import epoch_seconds
from ray_workers.store.memory import MemoryStore, _Stored

__all__ = ["CopiedStore"]


class CopiedStore(MemoryStore):
    """The campaign makes a million stores of some forty objects each; their bytes are shared, never copied."""

    def adopt(self, objects: Mapping[str, bytes]) -> None:
        """Hold `objects` beside what is there already."""
        now = epoch_seconds()
        self._objects.update({key: _Stored(data, now) for key, data in objects.items()})

    @property
    def objects(self) -> dict[str, bytes]:
        return {key: stored.data for key, stored in sorted(self._objects.items())}
