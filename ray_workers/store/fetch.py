"""A large object into memory: ranges side by side, digested in the same pass.

A range is digested by the thread that read it, while others read later ones, so verification costs what it takes for
the last one. Nothing that is read may be used before the digest of all of it is known.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from ray_workers.store.checksum import Hasher
from ray_workers.store.errors import DigestMismatchError
from ray_workers.store.object_store import ObjectStore

__all__ = ["PART_BYTES", "Ranges", "StoredRanges", "copies_at_once", "fetch", "fill", "new_memory"]

PART_BYTES = 16 << 20
_FILE_PART_BYTES = 8 << 20
"""Of a file: no request is to be saved there, and a shorter last range is digested sooner. Opening it costs 0.1 ms."""
_READS_AT_ONCE = 4
"""Enough for a link of 20 Gbit/s at what S3 gives one connection."""


class Ranges(Protocol):
    """An object's bytes, wherever they are."""

    @property
    def key(self) -> str:
        """For errors."""

    @property
    def part_bytes(self) -> int:
        """How long a range should be."""

    @property
    def reads_at_once(self) -> int: ...

    def size(self) -> int:
        """Bytes of all of it."""

    def read_into(self, start: int, *targets: memoryview) -> int:
        """As `ObjectStore.read_into`."""


@dataclass(frozen=True, slots=True)
class StoredRanges:
    """An object in a store."""

    store: ObjectStore
    key: str

    @property
    def part_bytes(self) -> int:
        return _FILE_PART_BYTES if self.store.kind == "local" else PART_BYTES

    @property
    def reads_at_once(self) -> int:
        return copies_at_once() if self.store.kind == "local" else _READS_AT_ONCE

    def size(self) -> int:
        return self.store.head(self.key).size

    def read_into(self, start: int, *targets: memoryview) -> int:
        return self.store.read_into(self.key, start, *targets)


def copies_at_once() -> int:
    """Threads that fill a machine's memory bandwidth, and not more than it has processors for."""
    return max(2, min(_READS_AT_ONCE, os.cpu_count() or 1))


def new_memory(size: int) -> memoryview:
    """Fresh memory, in large pages where the system has them: touching it costs a third then."""
    memory = mmap.mmap(-1, size)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def fetch(store: ObjectStore, key: str, target: memoryview, algorithm: str) -> str:
    """Fill `target` with the first bytes of an object.

    Returns:
        Their digest.

    Raises:
        DigestMismatchError: the object ends earlier.
    """
    hasher = Hasher(algorithm)
    fill(StoredRanges(store, key), 0, [target], hasher)
    return hasher.digest()


def fill(source: Ranges, start: int, targets: Sequence[memoryview], hasher: Hasher) -> None:
    """Fill the targets, one after the other, with bytes from `start`, and add them to `hasher` in that order.

    Raises:
        DigestMismatchError: the object ends earlier.
    """
    wanted = start + sum(map(len, targets))
    parts = list(_parts(targets, start, source.part_bytes))
    digesting = _InOrder(hasher, len(parts))

    def read(number: int, begin: int, pieces: list[memoryview]) -> None:
        found = source.read_into(begin, *pieces)
        if found != sum(map(len, pieces)):
            raise DigestMismatchError(
                f"{source.key} is damaged: it has {begin + found} bytes, but {wanted} were written.",
                key=source.key,
                expected=wanted,
                found=begin + found,
            )
        digesting.arrived(number, pieces)

    pool = ThreadPoolExecutor(source.reads_at_once, thread_name_prefix="pawl-read")
    try:
        reads = [pool.submit(read, number, *part) for number, part in enumerate(parts)]
        for running in reads:
            running.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _parts(
    targets: Sequence[memoryview], start: int, part_bytes: int
) -> Iterator[tuple[int, list[memoryview]]]:
    """The targets cut and joined to ranges of `part_bytes`: where each begins, and its pieces."""
    pieces: list[memoryview] = []
    room = part_bytes
    for target in targets:
        rest = target
        while rest:
            piece, rest = rest[:room], rest[room:]
            pieces.append(piece)
            room -= len(piece)
            if not room:
                yield start, pieces
                start += part_bytes
                pieces, room = [], part_bytes
    if pieces:
        yield start, pieces


class _InOrder:
    """Digests parts in their order, whatever the order in which they arrive; by the thread that brings the next one."""

    def __init__(self, hasher: Hasher, parts: int) -> None:
        self._hasher = hasher
        self._waiting: list[list[memoryview] | None] = [None] * parts
        self._next = 0
        self._busy = False
        self._lock = threading.Lock()

    def arrived(self, number: int, pieces: list[memoryview]) -> None:
        """Returns when the part is digested, or another thread is going to."""
        with self._lock:
            self._waiting[number] = pieces
            if self._busy:
                return
            self._busy = True
        while (ready := self._take()) is not None:
            for piece in ready:
                self._hasher.update(piece)

    def _take(self) -> list[memoryview] | None:
        with self._lock:
            ready = self._waiting[self._next] if self._next < len(self._waiting) else None
            self._busy = ready is not None
            if ready is not None:
                self._waiting[self._next] = None
                self._next += 1
            return ready
