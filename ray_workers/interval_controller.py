"""The interval as training goes on: rank 0 measures what saves cost it, and asks `policies.interval` again each time.

What a save costs is the larger of two measurements: the time that training stood still for its copy, and how much longer
the steps were that ran beside it than those that ran alone (which has the standing still in it, and the slowdown by
copying, digesting, sending, and by the validation that follows; what comes after the commit is counted with the next save).
Medians over the last saves, those of earlier attempts too, so that one slow answer of the store changes little. The budget
goes by their mean.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ray_workers.messages import VersionOutcome
from ray_workers.policies.failure_rate import Evidence, FailureRate
from ray_workers.policies.interval import (
    IntervalCaps,
    IntervalDecision,
    IntervalFacts,
    bytes_per_save,
    decide_interval,
    mean_cost,
)

__all__ = ["FIRST_SAVE_S", "IntervalController", "IntervalPlan"]

FIRST_SAVE_S = 120.0
"""A run of which nothing is known saves after this time at the latest: the start is worth keeping, and the cost is learned."""
_UNKNOWN_STALL_S = 0.1
_UNKNOWN_PERSIST_S = 5.0
_SAVES = 5
_STEPS = 32
"""The last so many quiet ones: machines warm up, and share their time with others."""
_FEWEST_STEPS = 3
_AFTERMATH_S = 1.0
"""So long after a commit nobody may have told yet that the version is being validated: the driver looks twice a second."""
_RESTLESS_SAVES = 3
"""After so many saves without a quiet step in between (validation that cannot keep up, or hangs) nobody knows any more how long
a quiet one takes: steps that got longer for reasons of their own would be charged to saves, the more the longer the interval is."""
_PATIENT = 2.0
_OUTLIER = 10.0
"""A step that is so many times longer than usual is an evaluation or a pause, and no save's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalPlan:
    """What is known when an attempt starts: from the user, and from the run's history."""

    caps: IntervalCaps
    rate: FailureRate
    workers: int
    cost_s: float | None = None
    """Of a save, in earlier attempts; None: not known."""
    persist_s: float | None = None
    restore_s: float = 0.0
    bytes: int = 0
    """Of a whole version."""
    bytes_new: tuple[int, ...] = ()
    """That each of the last saves sent."""
    full_every: int = 1
    """Versions that may share one stored shard."""


class IntervalController:
    """Not shared between threads."""

    def __init__(self, plan: IntervalPlan, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._clock = clock
        self._step_at = self._rate_at = clock()
        self._rate = plan.rate
        self._warm = False
        """The first step is over, which compiles, fills caches and makes the optimizer's state: none is like it."""
        self._alone: deque[float] = deque(maxlen=_STEPS)
        self._beside = 0.0
        self._quiet = 0
        """Steps that ran alone since the last save was heard of."""
        self._restless = 0
        """Saves in a row between which none did."""
        self._committed_at = -math.inf
        self._costs: deque[float] = deque(maxlen=_SAVES)
        self._persists: deque[float] = deque(maxlen=_SAVES)
        self._bytes = plan.bytes
        self._bytes_new = deque(plan.bytes_new, maxlen=_SAVES)

    def stepped(self, *, beside: bool) -> None:
        """A step ended; `beside`: a save was on its way meanwhile, or a version was being validated."""
        now = self._clock()
        begun, self._step_at = self._step_at, now
        took = now - begun
        if not self._warm:
            self._warm = True
        elif not (beside or begun < self._committed_at + _AFTERMATH_S):
            self._quiet += 1
            self._alone.append(took)
        elif len(self._alone) >= _FEWEST_STEPS:
            # Cut off alike on both sides: else one pause among the quiet steps would hide what saves cost.
            longest = _OUTLIER * statistics.median(self._alone)
            usual = statistics.fmean(min(alone, longest) for alone in self._alone)
            self._beside += min(took, longest) - usual

    def heard(self, outcome: VersionOutcome) -> None:
        """What became of a save; a dropped one teaches nothing."""
        beside, self._beside = max(0.0, self._beside), 0.0
        if outcome.number is None or outcome.persist_s is None:
            return
        self._committed_at = self._clock()
        self._restless = 0 if self._quiet else self._restless + 1
        self._quiet = 0
        if self._restless > _RESTLESS_SAVES:
            self._alone.clear()
            beside = 0.0
        self._costs.append(max(outcome.stall_s, beside))
        self._persists.append(outcome.persist_s)
        self._bytes = outcome.bytes
        self._bytes_new.append(outcome.bytes_new)

    def due(self, since_s: float) -> bool:
        """Whether it is time for a save, so many seconds after the last one was staged.

        It waits a little for quiet steps, at most as long again: without any between two saves nobody would know what a save
        costs, and the budget would not hold.
        """
        interval_s = self.decide().seconds
        measured = self._quiet >= _FEWEST_STEPS or not self._costs
        return since_s >= (interval_s if measured else _PATIENT * interval_s)

    def hear_rate(self, rate: FailureRate | None) -> None:
        """How often training fails by now, with what was seen since the attempt began; None: no news."""
        if rate is not None and rate != self._rate:
            self._rate, self._rate_at = rate, self._clock()

    def decide(self) -> IntervalDecision:
        """The interval now; before the first save of a run without history at most `FIRST_SAVE_S`."""
        plan = self._plan
        rate = self._rate_now()
        known = bool(self._costs) or plan.cost_s is not None
        facts = IntervalFacts(
            stall_s=_median(self._costs, plan.cost_s, _UNKNOWN_STALL_S),
            mean_cost_s=mean_cost(_with_earlier(self._costs, plan.cost_s)),
            persist_s=_median(self._persists, plan.persist_s, _UNKNOWN_PERSIST_S if known else 0.0),
            restore_s=plan.restore_s,
            mtbf_s=rate.mtbf_s(plan.workers),
            bytes=bytes_per_save(self._bytes_new, whole=self._bytes, full_every=plan.full_every),
        )
        caps = plan.caps
        if not known:
            first = max(caps.min_s, min(caps.max_s, FIRST_SAVE_S))
            caps = IntervalCaps(min_s=caps.min_s, max_s=first)
        return decide_interval(facts, caps)

    def _rate_now(self) -> FailureRate:
        hours = (self._clock() - self._rate_at) * self._plan.workers / 3600.0
        return self._rate.after([Evidence(failures=0.0, worker_hours=hours)])

    def seconds(self) -> dict[str, float]:
        """The interval, the time between failures it was chosen by, and what the save before this one cost.

        Under the names that they have among a version's durations.
        """
        found = {
            "interval_s": round(self.decide().seconds, 3),
            "mtbf_s": round(self._rate_now().mtbf_s(self._plan.workers), 3),
        }
        if self._costs:
            found["last_save_cost_s"] = round(self._costs[-1], 6)
        return found


def _median(measured: deque[float], before: float | None, unknown: float) -> float:
    known = _with_earlier(measured, before)
    return statistics.median(known) if known else unknown


def _with_earlier(measured: deque[float], before: float | None) -> list[float]:
    """The last saves; of an attempt's first ones, which may be a few odd ones, beside what earlier attempts measured."""
    return [*measured, *([] if before is None else [before] * (_SAVES - len(measured)))]
