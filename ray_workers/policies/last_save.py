"""Whether an attempt that must end saves once more, and how early it must be told. Facts in, a decision out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LastSave"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSave:
    """The rule for the last version of an attempt that was asked to end within a grace period."""

    margin: float = 1.5
    """A last save may take so many times as long as the longest one measured: the store is left by many at once."""
    reserve_s: float = 0.5
    """Seconds for agreeing and for ending afterwards."""
    ending_s: float = 12.0
    """Seconds that a flow needs to end once its last version is committed: Ray, records, the orchestrator."""

    def fits(self, *, grace_s: float, persist_s: float | None, flights: int) -> bool:
        """Whether to save once more: with nothing in flight always, else if a full save fits behind it by what was measured.

        If not, what is in flight has the store to itself, and is all that can still become a version. With nothing in flight
        trying puts nothing at risk: an attempt ends with its grace, whatever became of its last save.

        Args:
            grace_s: seconds that are left.
            persist_s: the longest time from copy to commit of this attempt's saves; None: no save was measured, and
                then it is tried.
            flights: saves that are open.
        """
        if grace_s <= self.reserve_s:
            return False
        if persist_s is None or flights == 0:
            return True
        return (flights + 1) * self.margin * persist_s + self.reserve_s <= grace_s

    def wait_s(self, *, grace_s: float) -> float:
        """Seconds that an attempt's ranks wait for its last versions, so that they end before they are ended."""
        return max(0.0, grace_s - self.reserve_s)

    def lead_s(self, *, limit_s: float, persist_s: float | None, step_s: float | None) -> float:
        """Seconds before a time limit at which the attempt must be told to end.

        Long enough for one step, a save behind one in flight, and the end; at most half of the limit.
        """
        wanted = self.ending_s + 2 * self.margin * (persist_s or 0.0) + 2 * (step_s or 0.0)
        return min(wanted, limit_s / 2)
