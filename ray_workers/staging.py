"""The worker's side of the staging ring: buffers in shared memory, each free or held by one save.

A buffer is held from the moment its copy begins until nobody reads it any more; only then may the next save use it
(FORMAT.md §2). The ring is bounded, so a slow store makes intervals longer and never a queue.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from dataclasses import dataclass, field

from ray_workers.device_copy import pin, unpin
from ray_workers.host_copy import address_of

__all__ = ["StagingBuffer", "StagingRing"]

_PAGE = 4096
_log = logging.getLogger("pawl")


@dataclass(slots=True, kw_only=True)
class StagingBuffer:
    path: str
    memory: memoryview
    """Writable, shared with the node agent through the file."""
    _mapping: mmap.mmap = field(repr=False)
    _pinned: bool = False

    @classmethod
    def open(cls, path: str) -> StagingBuffer:
        """Map an existing staging file and touch each page once, so that no save pays for page faults.

        The file is this process's alone from now on: a lock that goes with the process says so to who would read it.
        """
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # kept by the mapping
            mapping = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        memory = memoryview(mapping)
        memory[::_PAGE] = bytes(len(memory[::_PAGE]))
        return cls(path=path, memory=memory, _mapping=mapping)

    def pin(self) -> None:
        """Let a CUDA device copy into the memory by itself. Where that is refused, its copies make training wait."""
        self._pinned = pin(address_of(self.memory), len(self.memory))
        if not self._pinned:
            _log.warning(
                "%.1f MB of staging memory could not be pinned: training waits for the device's copy at each save. "
                "Raise the limit of locked memory (ulimit -l) or lower saving.buffers.",
                len(self.memory) / 1e6,
            )

    def close(self) -> None:
        if self._pinned:  # while it is mapped: the device must not keep an address that is no more
            unpin(address_of(self.memory))
            self._pinned = False
        self.memory.release()
        self._mapping.close()


class StagingRing:
    """The buffers of one worker, all of one size.

    Args:
        paths: of existing staging files.
        pinned: a CUDA device copies into them.
    """

    def __init__(self, paths: list[str], *, pinned: bool = False) -> None:
        self._free = [StagingBuffer.open(path) for path in paths]
        if pinned:
            for buffer in self._free:
                buffer.pin()
        self._held: dict[str, StagingBuffer] = {}
        self.size = min((len(buffer.memory) for buffer in self._free), default=0)

    def take(self) -> StagingBuffer | None:
        """A free buffer, held from now on; None when all are.

        The one that was free for longest, so that the newest version stays in memory while the next one is staged.
        """
        if not self._free:
            return None
        buffer = self._free.pop(0)
        self._held[buffer.path] = buffer
        return buffer

    def give_back(self, path: str) -> None:
        """Nobody reads the buffer any more."""
        buffer = self._held.pop(path, None)
        if buffer is not None:
            self._free.append(buffer)

    @property
    def idle(self) -> bool:
        return not self._held

    def close(self) -> None:
        for buffer in (*self._free, *self._held.values()):
            buffer.close()
        self._free, self._held = [], {}
