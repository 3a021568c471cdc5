"""Holding a save up at one of its stages: the processes that would carry it on stand still, or the wire does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import psutil

from tests.integration.harness import StoredRun, wait_until
from tests.support.wire_proxy import WireFault, WireRequest

__all__ = ["Hold", "ShardGate", "StoppedActors", "UploadHeld"]


class Hold(Protocol):
    """Used once: `begin` while nothing is in flight, `reached` when the next save was staged, `end` whenever."""

    def begin(self) -> None: ...
    def reached(self) -> None:
        """Return when the save stands at its stage."""

    def end(self) -> None:
        """Let it go on, or what is left of it. May be called again."""


class StoppedActors:
    """The actors of one kind stand still (SIGSTOP).

    Args:
        find: those that are at work now.
        stored: where the save goes.
        shards: how many of its shards they do not keep from being stored.
    """

    def __init__(
        self, find: Callable[[], Sequence[psutil.Process]], stored: StoredRun, *, shards: int
    ) -> None:
        self._find, self._stored, self._shards = find, stored, shards
        self._stopped: Sequence[psutil.Process] = ()
        self._before = 0

    def begin(self) -> None:
        self._before = self._stored.stored_shards()
        self._stopped = wait_until(self._find, what="actors to stop")
        for process in self._stopped:
            process.send_signal(signal.SIGSTOP)

    def reached(self) -> None:
        wait_until(
            lambda: self._stored.stored_shards() == self._before + self._shards, what="shards"
        )

    def end(self) -> None:
        for process in self._stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


class ShardGate:
    """A plan for a wire proxy: when it is closed one more shard passes, and those after it wait until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._passing = 0
        self.waiting = 0

    def __call__(self, request: WireRequest) -> WireFault | None:
        if request.method == "PUT" and "/shards/" in request.target and not self._passes():
            self._open.wait()
        return None

    def close(self) -> None:
        self._passing = 1
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def _passes(self) -> bool:
        with self._lock:
            if self._open.is_set() or self._passing:
                self._passing = max(0, self._passing - 1)
                return True
            self.waiting += 1
            return False


class UploadHeld:
    """One shard of the save is stored, the other one's request does not arrive."""

    def __init__(self, gate: ShardGate, stored: StoredRun) -> None:
        self._gate, self._stored = gate, stored
        self._before = 0

    def begin(self) -> None:
        self._before = self._stored.stored_shards()
        self._gate.close()

    def reached(self) -> None:
        def half_way() -> bool:
            return self._gate.waiting > 0 and self._stored.stored_shards() == self._before + 1

        wait_until(half_way, what="one shard stored, the other on the wire")

    def end(self) -> None:
        self._gate.open()
