"""How often training fails, per worker-hour: a posterior with its uncertainty. Pure: evidence in, a rate out.

Failures are taken for a Poisson process whose rate is proportional to the number of workers. Before anything was seen the
rate is one of three kinds of place, each a Gamma distribution of shape 1 about its mean; evidence sharpens each of them
and, by how well each foretold it, the belief in which of them it is. So one failure in twenty worker-hours is enough to
see that machines are preempted, and minutes without one on ten thousand workers that they are not.

* 6 in 10: a large, well-kept cluster, 3e-5. Published: 419 unexpected interruptions in 54 days on 16,384 GPUs, one in three
  hours, 2.0e-5 ("The Llama 3 Herd of Models", 2024, 3.3.4); 6.5 failures in 1000 days of a node of 8 GPUs, 3.4e-5
  ("Revisiting Reliability in Large-Scale Machine Learning Research Clusters", 2024).
* 3 in 10: shared machines that are updated, rebooted and overloaded, 1e-3. An assumption: one in six weeks.
* 1 in 10: preemptible machines, 5e-2. An assumption: one a day.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

from ray_workers.store.errors import InvalidInputError

__all__ = ["PRIOR", "Evidence", "FailureRate", "Gamma"]

_NORMAL = NormalDist()
_BISECTIONS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A stretch of training that was watched."""

    failures: float
    worker_hours: float
    age_hours: float = 0.0
    """How long ago it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """Like `failures` seen in `worker_hours`."""

    failures: float
    worker_hours: float
    weight: float = 1.0
    """Belief in it, beside the others."""

    def __post_init__(self) -> None:
        if not (self.failures > 0 and self.worker_hours > 0 and self.weight >= 0):
            raise InvalidInputError(
                "A failure rate needs a prior above 0 failures in above 0 hours."
            )

    @property
    def mean(self) -> float:
        return self.failures / self.worker_hours

    def log_odds(self, failures: float, hours: float) -> float:
        """Logarithm of the probability that it gave to this evidence, but for what all share."""
        shape, scale = self.failures, self.worker_hours
        return (
            math.lgamma(shape + failures)
            - math.lgamma(shape)
            - shape * math.log1p(hours / scale)
            - failures * math.log(scale + hours)
        )

    def below(self, rate: float) -> float:
        """Probability of a rate up to `rate` (Wilson-Hilferty; within 3 % in the rate from two failures on)."""
        spread = 1.0 / (9.0 * self.failures)
        root = math.cbrt(rate / self.mean)
        return _NORMAL.cdf((root - 1.0 + spread) / math.sqrt(spread))


@dataclass(frozen=True, slots=True)
class FailureRate:
    """A mixture of Gamma distributions; their weights need not add up to 1."""

    parts: tuple[Gamma, ...]

    def __post_init__(self) -> None:
        if not sum(part.weight for part in self.parts) > 0:
            raise InvalidInputError("A failure rate needs a prior with some weight.")

    @property
    def mean(self) -> float:
        """Per worker-hour. The waste of an interval is linear in the rate, so this is the one to plan with."""
        total = sum(part.weight for part in self.parts)
        return sum(part.weight * part.mean for part in self.parts) / total

    def mtbf_s(self, workers: int) -> float:
        """Seconds between failures of a group of so many workers, at the mean rate."""
        return 3600.0 / (self.mean * workers)

    def after(self, evidence: Iterable[Evidence], half_life_hours: float = math.inf) -> FailureRate:
        """The posterior; what is older counts less, by half for each half-life, because clusters change."""
        failures = hours = 0.0
        for item in evidence:
            weight = 0.5 ** (item.age_hours / half_life_hours)
            failures += weight * item.failures
            hours += weight * item.worker_hours
        odds = [part.log_odds(failures, hours) for part in self.parts]
        most = max(odds)
        return FailureRate(
            tuple(
                Gamma(
                    failures=part.failures + failures,
                    worker_hours=part.worker_hours + hours,
                    weight=part.weight * math.exp(odd - most),
                )
                for part, odd in zip(self.parts, odds, strict=True)
            )
        )

    def bounds(self, inside: float = 0.9) -> tuple[float, float]:
        """Rates between which the true one lies with this probability, as much of the rest on either side."""
        return self._quantile((1 - inside) / 2), self._quantile((1 + inside) / 2)

    def _quantile(self, share: float) -> float:
        total = sum(part.weight for part in self.parts)
        low, high = 0.0, 100.0 * max(part.mean for part in self.parts)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = sum(part.weight * part.below(middle) for part in self.parts) / total
            low, high = (middle, high) if below < share else (low, middle)
        return (low + high) / 2


PRIOR = FailureRate(
    (
        Gamma(weight=0.6, failures=1.0, worker_hours=1.0 / 3e-5),
        Gamma(weight=0.3, failures=1.0, worker_hours=1.0 / 1e-3),
        Gamma(weight=0.1, failures=1.0, worker_hours=1.0 / 5e-2),
    )
)
