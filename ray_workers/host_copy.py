"""Copies of host memory that run beside training: two threads, no Python between two segments that they need.

A copy is a list of address ranges. Threads take segments until none is left; whoever waits takes segments too, so that
a copy that could not be overlapped costs no more than a plain one. The interpreter is free while a segment is moved.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

__all__ = [
    "COPY_THREADS",
    "CopySegment",
    "HostCopy",
    "address_of",
    "copy_now",
    "copy_pool",
    "copy_releasing",
]

COPY_THREADS = 2
"""One thread reaches about two thirds of a machine's memory bandwidth, a third one adds nothing."""

_SEGMENT_BYTES = 16 << 20
"""Small enough to share the work evenly, large enough that taking a segment costs nothing."""

_move_releasing = ctypes.memmove
_move_holding = ctypes.PyDLL(None).memmove
_move_holding.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_move_holding.restype = ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class CopySegment:
    """Addresses and a length in bytes; whoever makes one keeps both memories alive until the copy is done."""

    target: int
    source: int
    length: int


def address_of(memory: memoryview) -> int:
    """Of writable memory that somebody else keeps alive."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def copy_now(segment: CopySegment) -> None:
    """Copy a small segment without giving up the interpreter, which would cost more than the copy."""
    _move_holding(segment.target, segment.source, segment.length)


def copy_releasing(segment: CopySegment) -> None:
    """Copy a large segment while other threads go on."""
    _move_releasing(segment.target, segment.source, segment.length)


def copy_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="pawl-copy")


class HostCopy:
    """Segments on their way.

    Args:
        segments: what to copy; large ones are divided.
        pool: where the threads come from.
        on_copied: called once, by whichever thread finished the last segment, before `join` returns anywhere.
        keep: kept alive until the copy is done.
    """

    def __init__(
        self,
        segments: Iterable[CopySegment],
        pool: ThreadPoolExecutor,
        *,
        on_copied: Callable[[], None] = lambda: None,
        keep: Any = None,
    ) -> None:
        self._left = deque(part for segment in segments for part in _divided(segment))
        self._open = len(self._left)
        self._on_copied = on_copied
        self._keep = keep
        self._lock = threading.Lock()
        self._done = threading.Event()
        if not self._open:
            self._finish()
        for _ in range(min(COPY_THREADS, self._open)):
            pool.submit(self._work)

    def join(self) -> None:
        """Return when everything is copied, having helped."""
        self._work()
        self._done.wait()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def _work(self) -> None:
        while True:
            try:
                part = self._left.popleft()
            except IndexError:
                return
            _move_releasing(part.target, part.source, part.length)
            with self._lock:
                self._open -= 1
                last = self._open == 0
            if last:
                self._finish()

    def _finish(self) -> None:
        try:
            self._on_copied()
        finally:
            self._keep = None
            self._done.set()


def _divided(segment: CopySegment) -> Iterable[CopySegment]:
    for begin in range(0, segment.length, _SEGMENT_BYTES):
        length = min(_SEGMENT_BYTES, segment.length - begin)
        yield CopySegment(segment.target + begin, segment.source + begin, length)
