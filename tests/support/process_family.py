"""All processes that a started process brought about, wherever they went: told by a mark in their environment.

Ray's daemons outlive a killed driver for a while, and its workers lead sessions of their own: neither parent nor process
group finds them all. The environment does, since every child inherits it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from dataclasses import dataclass, field

import psutil

__all__ = ["Family"]

_MARK = "PAWL_TEST_FAMILY"
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Family:
    """Start the first process with `environment`; everything below works on it and on all that came of it."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def environment(self) -> dict[str, str]:
        # Ray's workers write their title over the environment that others see, unless the second is set.
        return {_MARK: self.mark, "SPT_NOENV": "1"}

    def members(self) -> list[psutil.Process]:
        """Who is alive now: the marked ones and their children, should one have shed its environment."""
        processes = {p.pid: p for p in psutil.process_iter() if p.pid != os.getpid()}
        found = {pid for pid in processes if self._is_marked(pid)}
        parents = {pid: _parent(process) for pid, process in processes.items()}
        size = -1
        while len(found) != size:
            size = len(found)
            found |= {pid for pid, parent in parents.items() if parent in found}
        return [processes[pid] for pid in sorted(found)]

    def freeze(self) -> None:
        """SIGSTOP all of them, until no new one turns up: one that runs may start another meanwhile."""
        frozen: set[int] = set()
        while new := [p for p in self.members() if p.pid not in frozen]:
            _send(new, signal.SIGSTOP)
            frozen |= {p.pid for p in new}

    def thaw(self) -> None:
        _send(self.members(), signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL all of them at one moment, as when the machine goes; returns when none is left."""
        deadline = time.monotonic() + _PATIENCE_S
        self.freeze()
        while left := self.members():
            _send(left, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise AssertionError(f"these do not die: {left}")
            time.sleep(0.02)

    def _is_marked(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as environment:  # noqa: PTH123 - hundreds of them
                return f"{_MARK}={self.mark}".encode() in environment.read().split(b"\0")
        except OSError:  # it ended, or is another user's
            return False


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid() if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
