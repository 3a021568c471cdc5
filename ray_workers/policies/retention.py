"""Which versions to keep: facts about all versions in, a plan out. Acting on the plan is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["KeptVersion", "RetentionFacts", "RetentionPlan", "RetentionPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionFacts:
    """One version that is live now."""

    number: int
    step: int
    bytes: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVersion:
    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPlan:
    keep: tuple[KeptVersion, ...]
    retire: tuple[int, ...]
    bytes_retired: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """A version is kept if any rule, or the store's own protection, wants it. No rule at all keeps everything."""

    keep_last: int | None = None
    keep_every_steps: int | None = None
    keep_best: int | None = None
    metric: str = "loss"
    mode: str = "min"

    def plan(
        self, versions: Sequence[RetentionFacts], protected: Mapping[int, str]
    ) -> RetentionPlan:
        """Split the live versions into kept, each with its reason, and retired.

        Args:
            versions: the live versions.
            protected: number to the reason why the store would refuse to retire it.
        """
        reasons = dict(protected)
        for number, why in self._wanted(versions):
            reasons.setdefault(number, why)
        if self.keep_last is None and self.keep_every_steps is None and self.keep_best is None:
            reasons = {v.number: reasons.get(v.number, "no retention is set") for v in versions}
        retire = [v for v in versions if v.number not in reasons]
        kept = [
            KeptVersion(number=v.number, reason=reasons[v.number])
            for v in versions
            if v.number in reasons
        ]
        return RetentionPlan(
            keep=tuple(kept),
            retire=tuple(v.number for v in retire),
            bytes_retired=sum(v.bytes for v in retire),
        )

    def _wanted(self, versions: Sequence[RetentionFacts]) -> list[tuple[int, str]]:
        newest = sorted(versions, key=lambda v: v.number, reverse=True)
        wanted = [
            (v.number, f"one of the newest {self.keep_last}") for v in newest[: self.keep_last or 0]
        ]
        if self.keep_every_steps is not None:
            every = self.keep_every_steps
            wanted += [
                (v.number, f"at a multiple of {every} steps") for v in newest if v.step % every == 0
            ]
        if self.keep_best is not None:
            sign = 1 if self.mode == "min" else -1
            # NaN compares with nothing, so a version without a usable metric is never among the best.
            scored = [v for v in newest if not math.isnan(v.metrics.get(self.metric, math.nan))]
            best = sorted(scored, key=lambda v: (sign * v.metrics[self.metric], -v.number))
            wanted += [
                (v.number, f"one of the best {self.keep_best} by {self.metric}")
                for v in best[: self.keep_best]
            ]
        return wanted
