"""A training that saves and fails, in fast motion: how much of the time its work survived, under a rule for the interval.

The model is Pawl's: a save takes `cost_s` from training, and becomes a version `persist_s` after its copy began, while
training goes on; only one is on its way at a time. A failure throws training back to the newest version, and costs
`restart_s`; it may come during a restart too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from benchmarks.interval_traces import Process, Site
from ray_workers.interval_controller import IntervalController, IntervalPlan
from ray_workers.messages import VersionOutcome
from ray_workers.policies.failure_rate import PRIOR, Evidence
from ray_workers.policies.interval import IntervalCaps

__all__ = ["Costs", "Life", "Rule", "fixed", "life_of", "pawl", "share_kept", "until_failure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of saving and coming back, in seconds."""

    name: str
    cost_s: float
    persist_s: float
    restart_s: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One made-up history: when the group fails, in seconds from its start; it ends with the last failure."""

    failures_s: tuple[float, ...]

    @property
    def end_s(self) -> float:
        return self.failures_s[-1]


class Rule(Protocol):
    """Chooses intervals; made anew for each life."""

    def interval_s(self) -> float:
        """From the begin of one save to the next, asked when a save begins or training goes on."""

    def saved(self, rng: random.Random) -> None:
        """A save was committed."""

    def went_on(self, seconds: float) -> None:
        """Training went on for so long since it was last told."""

    def failed(self) -> None: ...


def life_of(site: Site, process: Process, seed: int, failures: int) -> Life:
    """The first `failures` failures of a group."""
    # Text seeds are hashed the same way by every Python.
    rng = random.Random(f"{site.name}/{process.name}/{seed}")  # noqa: S311 - a simulation
    gaps = process.gaps(site.mtbf_s, rng)
    return Life(failures_s=tuple(accumulate(next(gaps) for _ in range(failures))))


def share_kept(life: Life, costs: Costs, make: Callable[[Costs], Rule], *, after: int = 0) -> float:
    """Work that survived, as a share of the time, from the `after`-th failure to the end."""
    rule = make(costs)
    rng = random.Random(1)  # noqa: S311 - a simulation
    kept = at = 0.0
    begin = 0.0
    for number, failure in enumerate(life.failures_s, start=1):
        if failure > at:
            kept += until_failure(failure - at, costs, rule, rng)
        rule.failed()
        at = max(at, failure) + costs.restart_s if failure > at else at
        if number == after:
            kept, begin = 0.0, failure
    return kept / (life.end_s - begin)


def until_failure(seconds: float, costs: Costs, rule: Rule, rng: random.Random) -> float:
    """Work kept of `seconds` of training that end with a failure."""
    if isinstance(rule, _Fixed):
        return _at_fixed_interval(seconds, costs, rule.interval_s())
    return _step_by_step(seconds, costs, rule, rng)


def _at_fixed_interval(seconds: float, costs: Costs, wanted: float) -> float:
    """The same as `_step_by_step`, at once: of how many saves the version was there in time."""
    interval = _possible(wanted, costs)
    durable = max(costs.persist_s, costs.cost_s)
    saves = math.floor((seconds + costs.cost_s - durable) / interval)
    return max(0, saves) * (interval - costs.cost_s)


def _possible(wanted: float, costs: Costs) -> float:
    """One save at a time, and some work between two."""
    return max(wanted, costs.persist_s, costs.cost_s * (1 + 1e-9))


def _step_by_step(seconds: float, costs: Costs, rule: Rule, rng: random.Random) -> float:
    clock = worked = kept = 0.0
    while True:
        interval = _possible(rule.interval_s(), costs)
        begun = clock + interval - costs.cost_s
        if begun >= seconds:
            rule.went_on(seconds - clock)
            return kept
        worked += interval - costs.cost_s
        rule.went_on(min(clock + interval, seconds) - clock)
        if begun + max(costs.persist_s, costs.cost_s) > seconds:
            return kept
        kept = worked
        rule.saved(rng)
        clock += interval


class _Fixed:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def interval_s(self) -> float:
        return self._seconds

    def saved(self, rng: random.Random) -> None: ...

    def went_on(self, seconds: float) -> None: ...

    def failed(self) -> None: ...


def fixed(seconds: float) -> Callable[[Costs], Rule]:
    return lambda _: _Fixed(seconds)


class _Pawl:
    """The controller that training runs, on a clock of the simulation; each attempt starts with what earlier ones showed."""

    def __init__(self, costs: Costs, workers: int, noise: float) -> None:
        self._costs = costs
        self._workers = workers
        self._noise = noise
        self._rate = PRIOR
        self._now = self._attempt_at = 0.0
        self._known = False
        self._controller = self._new()

    def interval_s(self) -> float:
        return self._controller.decide().seconds

    def saved(self, rng: random.Random) -> None:
        factor = rng.lognormvariate(0.0, self._noise)
        self._known = True
        self._controller.heard(
            VersionOutcome(
                step=1,
                number=1,
                stall_s=self._costs.cost_s * factor,
                persist_s=self._costs.persist_s * rng.lognormvariate(0.0, self._noise),
            )
        )

    def went_on(self, seconds: float) -> None:
        self._now += seconds

    def failed(self) -> None:
        hours = (self._now - self._attempt_at) * self._workers / 3600.0
        self._rate = self._rate.after([Evidence(failures=1.0, worker_hours=hours)])
        self._attempt_at = self._now
        self._controller = self._new()

    def _new(self) -> IntervalController:
        known = self._known
        plan = IntervalPlan(
            caps=IntervalCaps(min_s=10.0, max_s=1800.0, overhead=0.05),
            rate=self._rate,
            workers=self._workers,
            cost_s=self._costs.cost_s if known else None,
            persist_s=self._costs.persist_s if known else None,
        )
        return IntervalController(plan, clock=lambda: self._now)


def pawl(workers: int, noise: float = 0.3) -> Callable[[Costs], Rule]:
    """As Pawl decides, its measurements off by `noise` (of the logarithm)."""
    return lambda costs: _Pawl(costs, workers, noise)
