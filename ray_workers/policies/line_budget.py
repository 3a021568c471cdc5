"""How many log lines may go on: so many a second, a burst beyond that, and a count of those left out."""

from __future__ import annotations

__all__ = ["LineBudget"]


class LineBudget:
    """A token bucket. The caller brings the clock, in seconds of any origin.

    Args:
        per_second: lines a second in the long run; 0 lets none through.
        burst: lines at once after a quiet time.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._at: float | None = None
        self._left_out = 0

    def take(self, now: float) -> bool:
        """Whether one more line may go on at `now`; if not, it is counted."""
        if self._at is not None:
            gained = (now - self._at) * self._per_second
            self._tokens = min(float(self._burst), self._tokens + gained)
        self._at = now
        if self._tokens < 1 or self._per_second <= 0:
            self._left_out += 1
            return False
        self._tokens -= 1
        return True

    def left_out(self) -> int:
        """Lines left out since this was last asked."""
        count, self._left_out = self._left_out, 0
        return count
