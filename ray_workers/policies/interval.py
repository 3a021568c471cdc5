"""How long to wait between two saves: the least expected waste within what the user, the store and the network allow.

A save costs training `stall_s`, and slows it by the share `slowdown` for the `persist_s` seconds until it is committed.
Saves overlap training, so a failure loses what was done since the begin of the newest *committed* copy: on average half
an interval and the whole of `persist_s`, and the restart costs `restore_s` on top. Waste is then, as a share of the time,

    cost / interval + rate * (interval / 2 + persist_s + restore_s)     with cost = stall_s + slowdown * persist_s

for intervals much shorter than the time between failures (Young 1974). Exact for exponential failures and any interval
is the solution by Lambert's function (Bougeret, Casanova, Rabie, Robert, Vivien 2011; Daly 2006 expands it), used here.
`persist_s` and `restore_s` shift the waste and not its minimum.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ray_workers.store.errors import InvalidInputError

__all__ = [
    "IntervalCaps",
    "IntervalDecision",
    "IntervalFacts",
    "bytes_per_save",
    "decide_interval",
    "mean_cost",
    "optimal_interval_s",
]

_STEPS = 60
_ODD = 3.0
"""A save that is so many times dearer than usual counts as so many usual ones."""
_UNNOTICED_S = 0.2
"""Of each save: the pages and events about it and the like, on a machine that has no processor to spare for them. The difference
between what `make bench-overhead` measured of whole runs and what those runs measured themselves was 0.1 s in eleven pairs, and
hardly more than this: a budget is kept by the most that it may be."""
_ALMOST_ONE = 1.0 - 2.0**-53
_MIN_COST_S = 1e-4
"""No save is free: agreeing and collecting what became of it costs this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalFacts:
    """What was measured, in seconds of training time unless said otherwise."""

    stall_s: float
    mean_cost_s: float | None = None
    """What the last saves cost on average (`mean_cost`), for the budget; None: what one costs usually."""
    persist_s: float
    slowdown: float = 0.0
    """Share by which steps take longer while a save is on its way."""
    restore_s: float = 0.0
    """From a failure to the first new step."""
    mtbf_s: float
    """Mean time between failures of the whole group."""
    bytes: int = 0
    """Of one save, as sent (`bytes_per_save`)."""
    flights: int = 1
    """Saves that may be on their way at once."""

    def __post_init__(self) -> None:
        if self.mtbf_s <= 0 or self.flights < 1:
            raise InvalidInputError(
                "The time between failures and the saves in flight must be above 0."
            )

    @property
    def cost_s(self) -> float:
        return max(_MIN_COST_S, self.stall_s + self.slowdown * self.persist_s)

    @property
    def budgeted_s(self) -> float:
        """What the budget counts for a save: its part of the whole, and what training does not notice as its doing."""
        return max(self.cost_s, self.mean_cost_s or 0.0) + _UNNOTICED_S


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalCaps:
    """What the user allows."""

    min_s: float = 1.0
    max_s: float = 1800.0
    overhead: float = 0.05
    """Largest share of the time that saving may cost."""
    network_bytes_s: float | None = None
    """Largest mean rate of bytes sent."""
    storage_bytes_day: float | None = None
    """Most bytes that a day may add before retention."""

    def __post_init__(self) -> None:
        if not (0 < self.min_s <= self.max_s):
            raise InvalidInputError(
                f"The shortest interval, {self.min_s:g} s, must be above 0 and not above the longest, {self.max_s:g} s."
            )
        rest = (self.overhead, self.network_bytes_s or 1.0, self.storage_bytes_day or 1.0)
        if min(rest) <= 0:
            raise InvalidInputError("Budgets for overhead, network and storage must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalDecision:
    seconds: float
    """Between the begins of two saves."""
    optimum_s: float
    """What the least waste would be, without any cap."""
    bound_by: str
    """`least waste`, or the cap that holds: `persist`, `overhead`, `network`, `storage`, `min`, `max`."""
    overhead: float
    """Predicted share of the time that saving costs."""
    loss: float
    """Predicted share that failures cost: work done again, and restarts."""

    @property
    def waste(self) -> float:
        return self.overhead + self.loss


def bytes_per_save(new: Sequence[int], *, whole: int, full_every: int) -> int:
    """What a save sends: what changes, and its share of what does not, which is stored again from time to time.

    Args:
        new: bytes that each of the last saves sent; empty: not known.
        whole: bytes of a version.
        full_every: versions that may share one stored shard.
    """
    if not new:
        return whole
    usual = statistics.median_low(new)
    return usual + max(0, whole - usual) // full_every


def mean_cost(costs: Sequence[float]) -> float | None:
    """What saves cost on average, with odd ones cut off: a budget is spent by the sum. None: none is known."""
    if not costs:
        return None
    longest = _ODD * statistics.median(costs)
    return statistics.fmean(min(cost, longest) for cost in costs)


def decide_interval(facts: IntervalFacts, caps: IntervalCaps) -> IntervalDecision:
    """The interval of least waste, moved to the nearest one that is allowed.

    A floor is stronger than the ceiling: what the store cannot take cannot be wished for.
    """
    optimum = optimal_interval_s(facts.cost_s, facts.mtbf_s)
    floors = {
        "min": caps.min_s,
        "persist": facts.persist_s / facts.flights,
        "overhead": facts.budgeted_s / caps.overhead,
        "network": facts.bytes / caps.network_bytes_s if caps.network_bytes_s else 0.0,
        "storage": 86_400.0 * facts.bytes / caps.storage_bytes_day
        if caps.storage_bytes_day
        else 0.0,
    }
    floor = max(floors, key=floors.__getitem__)
    seconds, bound = optimum, "least waste"
    if seconds > caps.max_s:
        seconds, bound = caps.max_s, "max"
    if seconds < floors[floor]:
        seconds, bound = floors[floor], floor
    return IntervalDecision(
        seconds=seconds,
        optimum_s=optimum,
        bound_by=bound,
        overhead=facts.cost_s / seconds,
        loss=(seconds / 2 + facts.persist_s + facts.restore_s) / facts.mtbf_s,
    )


def optimal_interval_s(cost_s: float, mtbf_s: float) -> float:
    """Seconds of least waste between saves of `cost_s`, for exponential failures.

    With u the work between two saves over `mtbf_s` it solves u + ln(1 - u) = -cost_s / mtbf_s, which has one solution
    in (0, 1). For cheap saves it is Young's sqrt(2 * cost_s * mtbf_s); it never exceeds `mtbf_s` by more than the cost.
    """
    target = cost_s / mtbf_s
    low, high = 0.0, _ALMOST_ONE
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if -(middle + math.log1p(-middle)) < target:
            low = middle
        else:
            high = middle
    return mtbf_s * (low + high) / 2 + cost_s
