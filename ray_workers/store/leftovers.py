"""What a write that was cut off leaves behind and no listing of objects shows (FORMAT.md §15).

A backend that can leave such things has two verbs beside the port: `leftovers(prefix)` and `remove_leftover(leftover)`.
They stand apart, because only a sweeper needs them and only its credentials may do it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ray_workers.store.object_store import ObjectStore

__all__ = ["Leftover", "LeftoverStore", "list_leftovers", "remove_leftover"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    key: str
    """The object that it was to become, or the file's own place: in either case its folder names the fence."""
    bytes: int
    what: str
    """`unfinished upload` or `staging file`."""
    handle: str
    """By which the backend knows it: an upload id, or the file's name."""


@runtime_checkable
class LeftoverStore(Protocol):
    """A backend on which a write can leave something behind."""

    def leftovers(self, prefix: str) -> Iterator[Leftover]:
        """All of them whose key begins with `prefix`, those of writes under way included."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Absent is success. The write it belongs to, if it still runs, fails."""


def list_leftovers(store: ObjectStore, prefix: str) -> Iterator[Leftover]:
    """Nothing for a backend that leaves nothing."""
    return store.leftovers(prefix) if isinstance(store, LeftoverStore) else iter(())


def remove_leftover(store: ObjectStore, leftover: Leftover) -> None:
    """Raises as `ObjectStore.delete`."""
    if isinstance(store, LeftoverStore):
        store.remove_leftover(leftover)
