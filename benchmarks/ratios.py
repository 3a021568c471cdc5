"""Ratios of interleaved pairs: the median, a bootstrap interval, and whether a bar was reached."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bar", "Ratio", "summarise"]

_RESAMPLES = 2000
_COVERED = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A median of paired ratios with its interval."""

    median: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a ratio is to reach."""

    at_least: float
    aim: float
    larger_is_better: bool = False
    fewest: int = 15
    """With fewer pairs no bar is called reached."""

    def verdict(self, ratio: Ratio) -> str:
        """`reached` only if the worse end of the interval meets the bar; `not resolved` if the interval holds it."""
        if ratio.pairs < self.fewest:
            return "not resolved"
        worse, better = (
            (ratio.low, ratio.high) if self.larger_is_better else (ratio.high, ratio.low)
        )
        for bar, word in ((self.aim, "aim reached"), (self.at_least, "reached")):
            if self._meets(worse, bar):
                return word
        return "not resolved" if self._meets(better, self.at_least) else "not reached"

    def _meets(self, value: float, bar: float) -> bool:
        return value >= bar if self.larger_is_better else value <= bar


def summarise(pairs: Sequence[tuple[float, float]], *, seed: int = 0) -> Ratio:
    """The median of `value / baseline` over the pairs, with a percentile bootstrap interval of 95 %.

    Raises:
        ValueError: there are no pairs, or a baseline is not positive.
    """
    if not pairs or any(baseline <= 0 for _, baseline in pairs):
        raise ValueError("ratios need pairs with positive baselines")
    ratios = [value / baseline for value, baseline in pairs]
    draw = random.Random(seed)  # noqa: S311 - statistics, not secrets
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES)
    )
    tail = (1 - _COVERED) / 2
    return Ratio(
        median=statistics.median(ratios),
        low=medians[int(tail * _RESAMPLES)],
        high=medians[int((1 - tail) * _RESAMPLES) - 1],
        pairs=len(ratios),
    )
