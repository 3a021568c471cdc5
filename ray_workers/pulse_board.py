"""What a node agent knows of how the steps of the ranks beside it come, and their stacks when they are asked for."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ray_workers.policies.hang import RankPulse
from ray_workers.stacks import process_state

__all__ = ["PulseBoard"]

_LATE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    pulse: RankPulse
    at: float


class PulseBoard:
    """Called from several threads of one agent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: dict[int, _Heard] = {}
        self._stacks: dict[int, str] | None = None

    def leave(self, rank: int) -> None:
        """It has left the training loop, whichever way."""
        with self._lock:
            self._heard.pop(rank, None)

    def beat(self, pulse: RankPulse) -> bool:
        """Hear of a rank; whether its stacks are wanted."""
        with self._lock:
            self._heard[pulse.rank] = _Heard(pulse=pulse, at=self._clock())
            return self._stacks is not None and pulse.rank not in self._stacks

    def pulses(self) -> list[RankPulse]:
        """Of all ranks that were heard; one whose process gives no sign grows silent by that time too."""
        with self._lock:
            now = self._clock()
            return [_aged(heard, now - heard.at) for _, heard in sorted(self._heard.items())]

    def want_stacks(self) -> None:
        with self._lock:
            self._stacks = self._stacks or {}

    def put_stacks(self, rank: int, text: str) -> None:
        with self._lock:
            if self._stacks is not None:
                self._stacks[rank] = text

    def stacks(self) -> Mapping[int, str | None]:
        """By rank, since `want_stacks`; None: not heard yet."""
        with self._lock:
            told = self._stacks or {}
            return {rank: told.get(rank) for rank in sorted(self._heard)}

    def states(self) -> Mapping[int, str]:
        """What the processes do, for those that cannot say it themselves."""
        with self._lock:
            return {rank: process_state(heard.pulse.pid) for rank, heard in self._heard.items()}

    def kill(self, ranks: tuple[int, ...]) -> None:
        """SIGKILL those of these ranks that are here: whatever else they would not hear."""
        with self._lock:
            pids = [self._heard[rank].pulse.pid for rank in ranks if rank in self._heard]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _aged(heard: _Heard, age_s: float) -> RankPulse:
    if age_s < _LATE_S:
        return heard.pulse
    return replace(heard.pulse, silent_s=heard.pulse.silent_s + age_s)
