"""Which versions to keep: facts about all versions in, a plan out. Acting on the plan is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ray_workers.store.errors import InvalidInputError

__all__ = ["KeptVersion", "RetentionFacts", "RetentionPlan", "RetentionPolicy", "Thinning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionFacts:
    """One version that is live now."""

    number: int
    step: int
    bytes: int
    metrics: Mapping[str, float]
    epoch: int | None = None
    """Epochs completed; None when nobody asked, or when its manifest cannot be read."""
    committed_s: float | None = None
    """Seconds since the epoch at its commit; None: unknown, then thinning keeps it."""
    candidate: bool = True
    """Neither quarantined nor abandoned: it may be resumed from, and so be kept in the place of another one."""
    readable: bool = True
    """False: the store did not let us read its manifest, which may be there all the same."""


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
class Thinning:
    """One version for each `every_s` seconds, among versions up to `until_s` seconds old (None: of any age)."""

    every_s: float
    until_s: float | None = None

    def __post_init__(self) -> None:
        if not self.every_s > 0 or (self.until_s is not None and not self.until_s > 0):
            raise InvalidInputError(
                "Thinning needs a time above 0: write 1h/1d,1d for one an hour for a day."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """A version is kept if any rule, or the store's own protection, wants it. No rule at all keeps everything.

    Rules that keep one version in the place of others choose among candidates alone: what cannot be resumed from must
    not take the place of what can.

    `thin` is read from the youngest band on: a version belongs to the first band that is not too young for it.
    """

    keep_last: int | None = None
    keep_every_steps: int | None = None
    keep_every_epochs: int | None = None
    keep_best: int | None = None
    metric: str = "loss"
    mode: str = "min"
    thin: tuple[Thinning, ...] = ()

    @property
    def keeps_everything(self) -> bool:
        rules = (self.keep_last, self.keep_every_steps, self.keep_every_epochs, self.keep_best)
        return all(rule is None for rule in rules) and not self.thin

    @property
    def needs_manifests(self) -> bool:
        """Whether it looks at metrics or epochs."""
        return self.keep_best is not None or self.keep_every_epochs is not None

    def plan(
        self,
        versions: Sequence[RetentionFacts],
        protected: Mapping[int, str],
        *,
        now_s: float = 0.0,
    ) -> RetentionPlan:
        """Split the live versions into kept, each with its reason, and retired.

        Args:
            versions: the live versions.
            protected: number to the reason why the store would refuse to retire it.
            now_s: the time, in seconds since the epoch; thinning alone needs it.
        """
        reasons = dict(protected)
        newest = sorted(versions, key=lambda v: v.number, reverse=True)
        for number, why in self._wanted(newest, now_s):
            reasons.setdefault(number, why)
        if self.keeps_everything:
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

    def _wanted(self, newest: list[RetentionFacts], now_s: float) -> Iterator[tuple[int, str]]:
        candidates = [v for v in newest if v.candidate]
        for version in candidates[: self.keep_last or 0]:
            yield version.number, f"one of the newest {self.keep_last}"
        if self.keep_every_steps is not None:
            every = self.keep_every_steps
            for version in newest:
                if version.step % every == 0:
                    yield version.number, f"at a multiple of {every} steps"
        if self.keep_every_epochs is not None:
            yield from self._by_epoch(newest, self.keep_every_epochs)
        if self.keep_best is not None:
            yield from self._best(newest, self.keep_best)
        yield from self._thinned(newest, now_s)

    def _by_epoch(self, newest: list[RetentionFacts], every: int) -> Iterator[tuple[int, str]]:
        ends: dict[int, int] = {}
        for (
            version
        ) in newest:  # the last one written is the oldest, which was saved when the epoch ended
            if version.epoch is None:
                # Better one too many: what cannot be read now may be read later.
                yield version.number, "its epoch cannot be read"
            elif version.candidate and version.epoch > 0 and version.epoch % every == 0:
                ends[version.epoch] = version.number
        for number in ends.values():
            yield number, f"at a multiple of {every} epochs"

    def _best(self, newest: list[RetentionFacts], count: int) -> Iterator[tuple[int, str]]:
        for version in newest:
            if not version.readable:
                # It may be the best of all, and what is retired now is not looked at again.
                yield version.number, "its metrics cannot be read"
        sign = 1 if self.mode == "min" else -1
        candidates = [v for v in newest if v.candidate]
        # NaN compares with nothing, so a version without a usable metric is never among the best.
        scored = [v for v in candidates if not math.isnan(v.metrics.get(self.metric, math.nan))]
        best = sorted(scored, key=lambda v: (sign * v.metrics[self.metric], -v.number))
        for version in best[:count]:
            yield version.number, f"one of the best {count} by {self.metric}"

    def _thinned(self, newest: list[RetentionFacts], now_s: float) -> Iterator[tuple[int, str]]:
        """The oldest version of each span stays. Spans lie fixed in time, so who is kept once is kept again."""
        if not self.thin:
            return
        taken: dict[tuple[int, int], int] = {}
        for version in newest:  # the last one written into a span is its oldest
            if version.committed_s is None:
                yield version.number, "its age is unknown"
                continue
            band = self._band(now_s - version.committed_s)
            if band is not None and version.candidate:
                span = int(version.committed_s // self.thin[band].every_s)
                taken[band, span] = version.number
        for (band, _), number in taken.items():
            yield number, f"one for every {_span(self.thin[band].every_s)}"

    def _band(self, age_s: float) -> int | None:
        for index, band in enumerate(self.thin):
            if band.until_s is None or age_s <= band.until_s:
                return index
        return None


def _span(seconds: float) -> str:
    for unit, length in (("week", 604_800), ("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length and seconds % length == 0:
            count = int(seconds // length)
            return unit if count == 1 else f"{count} {unit}s"
    return f"{seconds:g} s"
