"""When training fails: made-up lives of a cluster in seconds between failures, each with the published figure it follows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

__all__ = ["PROCESSES", "SITES", "Gap", "Process", "RateAt", "Site"]

RateAt = Callable[[float], float]
"""Failures in a second, so many seconds after the failure before."""
HOUR = 3600.0
_WORKING_HOURS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A group of workers that fails as a whole."""

    name: str
    workers: int
    mtbf_s: float
    """Mean seconds between failures of the group."""
    source: str


SITES = (
    Site(
        name="16,384 GPUs",
        workers=16_384,
        mtbf_s=3.1 * HOUR,
        source="419 unexpected interruptions in 54 days (The Llama 3 Herd of Models, 2024)",
    ),
    Site(
        name="1,024 GPUs",
        workers=1_024,
        mtbf_s=1000 * 24 * HOUR / (6.5 * 128),
        source="6.5 failures in 1000 days of a node of 8 GPUs (Revisiting Reliability …, 2024)",
    ),
    Site(
        name="64 shared",
        workers=64,
        mtbf_s=1e3 / 64 * HOUR,
        source="assumed: one failure in 1000 worker-hours",
    ),
    Site(
        name="8 spot",
        workers=8,
        mtbf_s=2.5 * HOUR,
        source="assumed: one preemption in 20 hours of an instance",
    ),
)


@dataclass(frozen=True, slots=True)
class Gap:
    """From one failure to the next."""

    seconds: float
    rate: RateAt


def exponential(mean_s: float, rng: random.Random) -> Iterator[Gap]:
    """No memory: what every formula assumes."""
    while True:
        yield _memoryless(mean_s, rng)


def weibull(mean_s: float, rng: random.Random) -> Iterator[Gap]:
    """Infant mortality, shape 0.7: a failure is likelier soon after a failure (Schroeder and Gibson 2006: 0.7 to 0.8)."""
    shape = 0.7
    scale = mean_s / math.gamma(1.0 + 1.0 / shape)

    def rate(since_s: float) -> float:
        return shape / scale * math.pow(max(1.0, since_s) / scale, shape - 1.0)

    while True:
        yield Gap(rng.weibullvariate(scale, shape), rate)


def bursts(mean_s: float, rng: random.Random) -> Iterator[Gap]:
    """A failure brings two more within the hour on average, as with a bad switch or a bad rollout."""
    follow = 2.0 / 3.0
    near = min(0.1 * mean_s, 0.3 * HOUR)
    far = (mean_s - follow * near) / (1.0 - follow)
    while True:
        yield _memoryless(near if rng.random() < follow else far, rng)


def regimes(mean_s: float, rng: random.Random) -> Iterator[Gap]:
    """Good and bad times of some twenty failures each, in which they come three times as rarely and as often."""
    good, bad = 5.0 / 3.0 * mean_s, 1.0 / 3.0 * mean_s
    while True:
        for mean in (good, bad):
            for _ in range(1 + int(rng.expovariate(1.0 / 20.0))):
                yield _memoryless(mean, rng)


def daily(mean_s: float, rng: random.Random) -> Iterator[Gap]:
    """Preemption follows the day: five times as likely in working hours as at night."""
    at = 0.0
    scale = (
        _WORKING_HOURS * 5.0 + (24.0 - _WORKING_HOURS)
    ) / 24.0  # so that the mean over a day is right

    def by_hour(at_s: float) -> float:
        working = (at_s / HOUR) % 24.0 < _WORKING_HOURS
        return (5.0 if working else 1.0) / scale / mean_s

    while True:
        before = at
        while True:
            at += rng.expovariate(5.0 / scale / mean_s)
            working = (at / HOUR) % 24.0 < _WORKING_HOURS
            if working or rng.random() < 1.0 / 5.0:
                break
        yield Gap(at - before, partial(_shifted, by_hour, before))


def _memoryless(mean_s: float, rng: random.Random) -> Gap:
    return Gap(rng.expovariate(1.0 / mean_s), partial(_steady, 1.0 / mean_s))


def _steady(rate: float, _: float) -> float:
    return rate


def _shifted(rate: RateAt, begin_s: float, since_s: float) -> float:
    return rate(begin_s + since_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    name: str
    draws: Callable[[float, random.Random], Iterator[Gap]]

    def gaps(self, mean_s: float, rng: random.Random) -> Iterator[float]:
        """Seconds from each failure to the next."""
        return (gap.seconds for gap in self.draws(mean_s, rng))


PROCESSES = (
    Process(name="exponential", draws=exponential),
    Process(name="Weibull 0.7", draws=weibull),
    Process(name="bursts", draws=bursts),
    Process(name="good and bad times", draws=regimes),
    Process(name="day and night", draws=daily),
)
