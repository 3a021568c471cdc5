"""A training that saves and fails, in fast motion: how much of the time its work survived, under a rule for the interval.

The model is Pawl's: a save takes `cost_s` from training, and becomes a version `persist_s` after its copy began, while
training goes on; only one is on its way at a time. A failure throws training back to the newest version, and costs
`restart_s`; it may come during a restart too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice

from benchmarks.interval_rules import Costs, Fixed, Foreseen, Make, Rule, Start
from benchmarks.interval_traces import Process, RateAt, Site

__all__ = ["Life", "life_of", "share_kept", "shares_kept", "until_failure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One made-up history; it ends with the last failure."""

    failures_s: tuple[float, ...]
    """When the group fails, in seconds from its start."""
    rates: tuple[RateAt, ...] = field(default=(), compare=False)
    """For each of them the rate at which it came, by the seconds since the one before; empty: nobody will ask."""

    @property
    def end_s(self) -> float:
        return self.failures_s[-1]


def life_of(site: Site, process: Process, seed: int, failures: int) -> Life:
    """The first `failures` failures of a group."""
    # Text seeds are hashed the same way by every Python.
    rng = random.Random(f"{site.name}/{process.name}/{seed}")  # noqa: S311 - a simulation
    gaps = list(islice(process.draws(site.mtbf_s, rng), failures))
    return Life(
        failures_s=tuple(accumulate(gap.seconds for gap in gaps)),
        rates=tuple(gap.rate for gap in gaps),
    )


def share_kept(life: Life, costs: Costs, make: Make, *, after: int = 0) -> float:
    """Work that survived, as a share of the time, from the `after`-th failure to the end."""
    begin = life.failures_s[after - 1] if after else 0.0
    return sum(list(_kept(life, costs, make))[after:]) / (life.end_s - begin)


def shares_kept(life: Life, costs: Costs, make: Make, *, cold: int) -> tuple[float, float]:
    """The same up to the `cold`-th failure, and from there on."""
    kept = list(_kept(life, costs, make))
    middle = life.failures_s[cold - 1]
    return sum(kept[:cold]) / middle, sum(kept[cold:]) / (life.end_s - middle)


def _kept(life: Life, costs: Costs, make: Make) -> Iterator[float]:
    """Seconds of work that each failure left of what was done since the one before."""
    rule = make(costs)
    rng = random.Random(1)  # noqa: S311 - a simulation
    at = before = 0.0
    for number, failure in enumerate(life.failures_s):
        if failure > at:
            rate = life.rates[number] if life.rates else _unknown
            rule.began(Start(at_s=at, since_s=at - before, rate=rate))
            yield until_failure(failure - at, costs, rule, rng)
            at = failure + costs.restart_s
        else:
            yield 0.0
        rule.failed(failure)
        before = failure


def _unknown(_: float) -> float:
    raise ValueError("This life does not say at which rate its failures came.")


def until_failure(seconds: float, costs: Costs, rule: Rule, rng: random.Random) -> float:
    """Work kept of `seconds` of training that end with a failure."""
    if isinstance(rule, Foreseen):
        return max(0.0, seconds - max(costs.persist_s, costs.cost_s))
    if isinstance(rule, Fixed):
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
