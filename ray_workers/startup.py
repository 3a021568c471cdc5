"""How long an attempt's start took, phase by phase; a part of every version it makes, so that a retry explains itself."""

from __future__ import annotations

import time
from datetime import datetime

from ray_workers.store.clock import utc_now

__all__ = ["PHASES", "StartUp"]

PHASES = ("verify_s", "start_s", "restore_s", "warm_up_s")
"""Reading the resume point back when it was chosen; cluster and workers until the loop opened its session; restoring
in the workers; from there to the end of the first step."""


class StartUp:
    """Made when the session opens.

    Args:
        launched_at: when the flow began to start the workers; UTC, ISO 8601; None: unknown.
    """

    def __init__(self, launched_at: str | None) -> None:
        self._mark = time.monotonic()
        self._seconds: dict[str, float] = {}
        if launched_at is not None:
            # Two hosts' clocks, perhaps: information only, and never negative.
            since = datetime.fromisoformat(utc_now()) - datetime.fromisoformat(launched_at)
            self._seconds["start_s"] = round(max(0.0, since.total_seconds()), 3)

    def restored(self, verify_s: float) -> None:
        """A version was restored, which had taken `verify_s` seconds to read back before."""
        self._seconds |= {"verify_s": verify_s, "restore_s": self._lap()}

    def stepped(self) -> None:
        """A step ended; the first one counts."""
        if "warm_up_s" not in self._seconds:
            self._seconds["warm_up_s"] = self._lap()

    def seconds(self) -> dict[str, float]:
        """By phase, as far as they are over."""
        return dict(self._seconds)

    def _lap(self) -> float:
        before, self._mark = self._mark, time.monotonic()
        return round(self._mark - before, 3)
