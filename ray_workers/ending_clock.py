"""Where the seconds go between the request to end and the end: told when all is over, since a grace is short."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray_workers.messages import PawlEvent
from ray_workers.store.clock import utc_now

__all__ = ["EndingClock"]


class EndingClock:
    """Phases of one end, in the order in which they are marked. Does nothing before `begin`.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cause = ""
        self._last: float | None = None
        self._phases: dict[str, float] = {}

    def begin(self, cause: str, since_s: float = 0.0) -> None:
        """The end was asked for, so many seconds ago. Only the first request counts."""
        if self._last is None:
            self._cause, self._last = cause, self._clock() - since_s

    def forget(self) -> None:
        """Training goes on after all."""
        self._cause, self._last, self._phases = "", None, {}

    def mark(self, phase: str) -> None:
        """What happened since the last mark was `phase`; one that is marked twice adds up."""
        if self._last is not None:
            now = self._clock()
            self._phases[phase] = self._phases.get(phase, 0.0) + now - self._last
            self._last = now

    @contextmanager
    def after(self, phase: str) -> Iterator[None]:
        """Mark `phase` on the way out: stands before the context whose end it is."""
        try:
            yield
        finally:
            self.mark(phase)

    def event(self) -> PawlEvent | None:
        """What there is to tell; None when nothing asked for the end."""
        if self._last is None:
            return None
        spent = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in self._phases.items())
        return PawlEvent(
            kind="ending",
            message=f"Ended after {self._cause}: {spent}.",
            at=utc_now(),
            details={"cause": self._cause, "seconds": dict(self._phases)},
        )
