"""When a rank last took a step, and how long its steps take; asked from another thread than the one that trains."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray_workers.policies.hang import RankPulse

__all__ = ["Heart"]

_MEDIAN_OF = 101
_WARM_UP = 3
"""Steps of an attempt whose times say nothing: kernels are compiled and tuned, memory is taken."""


class Heart:
    """Silent until the first step; `stepped`, `resting` and `over` are called by the thread that trains."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._gaps: deque[float] = deque(maxlen=_MEDIAN_OF)
        self._longest = 0.0
        self._steps = 0
        self._step = 0
        self._since: float | None = None
        self._clean = False
        """Nothing but one step is between the last mark and now."""
        self._resting = 0
        self._between_epochs = False
        self._over = False

    def stepped(self, step: int, *, last_of_epoch: bool = False) -> None:
        """Step number `step` is done."""
        with self._lock:
            now = self._clock()
            if self._since is not None and self._clean and self._steps >= _WARM_UP:
                gap = now - self._since
                self._gaps.append(gap)
                self._longest = max(self._longest, gap)
            self._since, self._clean = now, True
            self._steps += 1
            self._step = step
            self._between_epochs = last_of_epoch
            self._over = False

    @contextmanager
    def resting(self) -> Iterator[None]:
        """No step is expected in here."""
        with self._lock:
            self._resting += 1
        try:
            yield
        finally:
            with self._lock:
                self._resting -= 1
                self._clean = False
                if self._since is not None:
                    self._since = self._clock()

    def over(self) -> None:
        """No step is expected any more, unless another one comes."""
        with self._lock:
            self._over, self._clean = True, False

    def pulse(self, rank: int) -> RankPulse:
        with self._lock:
            gaps = list(self._gaps)
            since = self._since
            return RankPulse(
                rank=rank,
                pid=os.getpid(),
                step=self._step,
                silent_s=0.0 if since is None else self._clock() - since,
                gaps=len(gaps),
                median_s=statistics.median(gaps) if gaps else 0.0,
                longest_s=self._longest,
                resting=since is None or self._resting > 0 or self._over,
                between_epochs=self._between_epochs,
            )
