"""Rules for the interval between saves, as the simulation asks them: fixed ones, Pawl's own, and two that see more than anybody can."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from benchmarks.interval_traces import RateAt
from ray_workers.config import Saving
from ray_workers.interval_controller import IntervalController, IntervalPlan
from ray_workers.interval_facts import HALF_LIFE_HOURS, MEDIAN_OF, caps_of
from ray_workers.messages import VersionOutcome
from ray_workers.policies.failure_rate import PRIOR, Evidence
from ray_workers.policies.interval import optimal_interval_s

__all__ = [
    "Costs",
    "Fixed",
    "Foreseen",
    "Make",
    "Rule",
    "Start",
    "clairvoyant",
    "fixed",
    "foreseen",
    "pawl",
]

_optimum_s = lru_cache(maxsize=4096)(optimal_interval_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of saving and coming back, in seconds."""

    name: str
    cost_s: float
    persist_s: float
    restart_s: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Of training: at the begin of a life, and after each failure."""

    at_s: float
    """Since the life began."""
    since_s: float
    """Since the failure before."""
    rate: RateAt
    """At which the next failure comes."""


class Rule(Protocol):
    """Chooses intervals; made anew for each life."""

    def began(self, start: Start) -> None:
        """Training goes on after a failure, or begins."""

    def interval_s(self) -> float:
        """From the begin of one save to the next, asked when a save begins or training goes on."""

    def saved(self, rng: random.Random) -> None:
        """A save was committed."""

    def went_on(self, seconds: float) -> None:
        """Training went on for so long since it was last told."""

    def failed(self, at_s: float) -> None: ...


Make = Callable[[Costs], Rule]


class _Deaf:
    """Needs nothing of what it is told."""

    def began(self, start: Start) -> None: ...

    def saved(self, rng: random.Random) -> None: ...

    def went_on(self, seconds: float) -> None: ...

    def failed(self, at_s: float) -> None: ...


class Fixed(_Deaf):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def interval_s(self) -> float:
        return self._seconds


class Foreseen(Fixed):
    """One save before each failure, just in time to be committed: nothing can keep more."""


class _Clairvoyant(_Deaf):
    def __init__(self, costs: Costs) -> None:
        self._cost_s = costs.cost_s
        self._since_s = 0.0
        self._rate: RateAt = _never

    def began(self, start: Start) -> None:
        self._since_s, self._rate = start.since_s, start.rate

    def went_on(self, seconds: float) -> None:
        self._since_s += seconds

    def interval_s(self) -> float:
        # The rate may change before the interval is over; its middle stands for all of it.
        seconds = 0.0
        for _ in range(3):
            seconds = _optimum_s(self._cost_s, 1.0 / self._rate(self._since_s + seconds / 2))
        return seconds


def _never(_: float) -> float:
    return 1e-12


class _Pawl:
    """The controller that training runs, on the simulation's clock and under the default limits.

    Each attempt starts as in production: with all failures until then, older ones counting less, and with the median of what
    the last saves were measured to cost.
    """

    def __init__(self, costs: Costs, workers: int, noise: float) -> None:
        self._costs = costs
        self._workers = workers
        self._noise = noise
        self._now = self._failed_at = 0.0
        self._ends: list[tuple[float, float]] = []
        """When an attempt ended, and its worker-hours."""
        self._seen: list[tuple[float, float]] = []
        """What the last saves cost, and how long they took."""
        self._controller = self._new()

    def began(self, start: Start) -> None:
        self._now = start.at_s
        self._controller = self._new()

    def interval_s(self) -> float:
        return self._controller.decide().seconds

    def saved(self, rng: random.Random) -> None:
        stall_s = self._costs.cost_s * rng.lognormvariate(0.0, self._noise)
        persist_s = self._costs.persist_s * rng.lognormvariate(0.0, self._noise)
        self._seen = [*self._seen, (stall_s, persist_s)][-MEDIAN_OF:]
        self._controller.heard(
            VersionOutcome(step=1, number=1, stall_s=stall_s, persist_s=persist_s)
        )

    def went_on(self, seconds: float) -> None:
        self._now += seconds

    def failed(self, at_s: float) -> None:
        self._ends.append((at_s, (at_s - self._failed_at) * self._workers / 3600.0))
        self._failed_at = at_s

    def _new(self) -> IntervalController:
        evidence = [
            Evidence(failures=1.0, worker_hours=hours, age_hours=(self._now - end) / 3600.0)
            for end, hours in self._ends
        ]
        plan = IntervalPlan(
            caps=caps_of(Saving()),
            rate=PRIOR.after(evidence, HALF_LIFE_HOURS),
            workers=self._workers,
            cost_s=statistics.median(stall for stall, _ in self._seen) if self._seen else None,
            persist_s=statistics.median(took for _, took in self._seen) if self._seen else None,
        )
        return IntervalController(plan, clock=lambda: self._now)


def fixed(seconds: float) -> Make:
    return lambda _: Fixed(seconds)


def pawl(workers: int, noise: float = 0.3) -> Make:
    """As Pawl decides, its measurements off by `noise` (of the logarithm)."""
    return lambda costs: _Pawl(costs, workers, noise)


def clairvoyant() -> Make:
    """Knows what saves cost and the true rate of failures at each moment, the hidden ones too; not when they come."""
    return _Clairvoyant


def foreseen() -> Make:
    """Knows when each failure comes."""
    return lambda _: Foreseen(0.0)
