"""What the rules for the interval kept in one case of the benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BEST", "BEST_OF_LIFE", "CLAIRVOYANT", "FORESEEN", "Outcome", "Shares"]

BEST = "best fixed"
"""One for all lives of the case: the best over the very failures that are looked at."""
BEST_OF_LIFE = "best fixed of the life"
"""In each life the one that was best in it: partly skill, partly the luck of the dice."""
CLAIRVOYANT = "clairvoyant"
FORESEEN = "knows each failure"

Shares = dict[str, tuple[float, ...]]
"""By rule, for each life the share of the time whose work was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    site: str
    process: str
    profile: str
    best_s: float
    """The fixed interval that was best on these very lives, after the first ten failures."""
    cold: Shares
    """Over the first ten failures, nothing known before."""
    later: Shares
    """Over the failures after those ten."""

    def kept(self, rule: str, *, cold: bool) -> float:
        return statistics.fmean((self.cold if cold else self.later)[rule])

    def regret(self, rule: str, *, cold: bool, against: str = BEST) -> float:
        """Mean over the lives."""
        return self.kept(against, cold=cold) - self.kept(rule, cold=cold)

    def regrets(self, rule: str, *, cold: bool, against: str = BEST) -> Sequence[float]:
        """Of each life."""
        found = self.cold if cold else self.later
        return [best - kept for best, kept in zip(found[against], found[rule], strict=True)]
