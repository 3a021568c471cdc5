"""The interval explained: what is known, how surely, what follows from it, and what really happened. Pure; for page and command."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray_workers.config import Saving
from ray_workers.interval_facts import HALF_LIFE_HOURS, MEDIAN_OF, IntervalHistory, caps_of
from ray_workers.policies.failure_rate import PRIOR, Evidence, FailureRate
from ray_workers.policies.interval import (
    IntervalDecision,
    IntervalFacts,
    bytes_per_save,
    decide_interval,
    mean_cost,
)

__all__ = ["IntervalAccount", "Measured", "account_of"]


_DEFAULTS = "Pawl's defaults; the run's own, and failures of other runs, are in what is in force, and on its lineage page"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds, over some saves or restarts."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, measured: Sequence[float]) -> Measured | None:
        """Of the last ones, as training takes them."""
        values = measured[-MEDIAN_OF:]
        if not values:
            return None
        return cls(
            median=statistics.median(values), low=min(values), high=max(values), count=len(values)
        )

    def to_json(self) -> dict[str, Any]:
        return {"median": self.median, "low": self.low, "high": self.high, "count": self.count}


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalAccount:
    run: str
    decision: IntervalDecision | None
    """None: no save was measured yet, so there is nothing to decide from."""
    range_s: tuple[float, float] | None
    """The interval at either end of the rate's 90 % bounds."""
    in_force_s: float | None
    """What training used for its newest version; None: it saves at thresholds alone, or an older Pawl made it."""
    workers: int
    rate: FailureRate
    failures: int
    worker_hours: float
    elsewhere: tuple[float, float]
    """Failures, and worker-hours, of other runs that the rate takes into account."""
    causes: dict[str, int]
    cost: Measured | None
    persist: Measured | None
    restart: Measured | None
    bytes: int
    """Of its newest version."""
    bytes_per_save: int
    """As sent, by the last saves."""
    default_limits: bool
    """Decided by Pawl's default limits and without failures elsewhere, where the run's flow run knows better."""
    overhead: float | None
    """Measured share of the time that saves cost training."""
    loss: float | None
    """Measured share of the time that failures of machines cost: work that was lost, and time until training was back."""

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names; seconds, and shares of one."""
        low, high = self.rate.bounds()
        decision = self.decision
        return {
            "run": self.run,
            "interval_s": None if decision is None else decision.seconds,
            "interval_range_s": None if self.range_s is None else list(self.range_s),
            "bound_by": None if decision is None else decision.bound_by,
            "in_force_s": self.in_force_s,
            "workers": self.workers,
            "failures_per_worker_hour": {"mean": self.rate.mean, "low": low, "high": high},
            "mtbf_s": self.rate.mtbf_s(self.workers),
            "failures": self.failures,
            "worker_hours": self.worker_hours,
            "elsewhere": {
                "failures": self.elsewhere[0],
                "worker_hours": self.elsewhere[1],
            },
            "attempts_by_cause": dict(self.causes),
            "save_cost_s": _json(self.cost),
            "persist_s": _json(self.persist),
            "restart_s": _json(self.restart),
            "bytes": self.bytes,
            "bytes_per_save": self.bytes_per_save,
            "default_limits": self.default_limits,
            "predicted": None
            if decision is None
            else {"overhead": decision.overhead, "loss": decision.loss},
            "measured": {"overhead": self.overhead, "loss": self.loss},
        }

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of everything, for people."""
        told = [
            ("interval", self._interval_text()),
            ("in force", "thresholds alone" if self.in_force_s is None else _time(self.in_force_s)),
            ("failures", self._failures_text()),
            ("ended by", ", ".join(f"{cause} {n}" for cause, n in sorted(self.causes.items()))),
            ("a save costs", _measured(self.cost)),
            ("until committed", _measured(self.persist)),
            ("a restart takes", _measured(self.restart)),
        ]
        if self.elsewhere[1] > 0:
            failures, hours = self.elsewhere
            told.insert(
                3,
                ("other runs", f"{failures:.0f} failures in {hours:.3g} worker-hours, by Prefect"),
            )
        if self.decision is not None:
            told.append(
                (
                    "predicted",
                    f"saving {_share(self.decision.overhead)}, failures {_share(self.decision.loss)}",
                )
            )
        if self.default_limits:
            told.insert(1, ("limits", _DEFAULTS))
        told.append(("measured", f"saving {_share(self.overhead)}, failures {_share(self.loss)}"))
        return told

    def _failures_text(self) -> str:
        low, high = self.rate.bounds()
        return (
            f"{self.failures} in {self.worker_hours:.3g} worker-hours; {self.rate.mean:.2g} a worker-hour "
            f"(90 %: {low:.2g} to {high:.2g}), so one in {_time(self.rate.mtbf_s(self.workers))} for "
            f"{self.workers} workers"
        )

    def _interval_text(self) -> str:
        if self.decision is None or self.range_s is None:
            return "unknown until a first save was measured"
        low, high = self.range_s
        return (
            f"{_time(self.decision.seconds)}, by {self.decision.bound_by} "
            f"({_time(low)} to {_time(high)} within the uncertainty of the failures)"
        )


def account_of(
    history: IntervalHistory, saving: Saving | None = None, elsewhere: Sequence[Evidence] = ()
) -> IntervalAccount:
    """What the run's history says under these caps (by default the default ones).

    Args:
        history: of the run.
        saving: whose caps count.
        elsewhere: failures of other runs on the same machines.
    """
    rate = PRIOR.after([*history.evidence, *elsewhere], HALF_LIFE_HOURS)
    cost, persist = Measured.of(history.costs_s), Measured.of(history.persists_s)
    restart = Measured.of(history.restarts_s)
    limits = saving or Saving()
    caps = caps_of(limits)
    sent = bytes_per_save(
        history.bytes_new[-MEDIAN_OF:], whole=history.bytes, full_every=limits.full_every
    )

    def at(per_hour: float) -> IntervalDecision:
        facts = IntervalFacts(
            stall_s=0.0 if cost is None else cost.median,
            mean_cost_s=mean_cost(history.costs_s[-MEDIAN_OF:]),
            persist_s=0.0 if persist is None else persist.median,
            restore_s=0.0 if restart is None else restart.median,
            mtbf_s=3600.0 / (max(per_hour, 1e-12) * history.workers),
            bytes=sent,
        )
        return decide_interval(facts, caps)

    low, high = rate.bounds()
    known = cost is not None
    watched = history.watched_s
    return IntervalAccount(
        run=history.run,
        decision=at(rate.mean) if known else None,
        range_s=(at(high).seconds, at(low).seconds) if known else None,
        in_force_s=history.in_force_s,
        workers=history.workers,
        rate=rate,
        failures=history.causes.get("infrastructure", 0),
        worker_hours=history.worker_hours,
        elsewhere=(
            sum(item.failures for item in elsewhere),
            sum(item.worker_hours for item in elsewhere),
        ),
        causes=dict(history.causes),
        cost=cost,
        persist=persist,
        restart=restart,
        bytes=history.bytes,
        bytes_per_save=sent,
        default_limits=saving is None,
        overhead=history.overhead,
        loss=min(1.0, history.lost_s / watched) if watched > 0 else None,
    )


def _json(measured: Measured | None) -> dict[str, Any] | None:
    return None if measured is None else measured.to_json()


def _measured(found: Measured | None) -> str:
    if found is None:
        return "not measured yet"
    return f"{_time(found.median)} ({_time(found.low)} to {_time(found.high)} in {found.count})"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.2g} %"


_UNITS = ((1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h"))
"""Below so many seconds, what a unit is worth, and its name."""


def _time(seconds: float) -> str:
    for below, worth, unit in _UNITS:
        if seconds < below:
            return f"{seconds / worth:.3g} {unit}"
    return f"{seconds / 86_400:,.3g} days"
