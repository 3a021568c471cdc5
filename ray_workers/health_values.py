"""What is said of a run's health: the objective, the facts it is judged by, the findings. Times are seconds, instants UTC."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "AtRisk",
    "Objective",
    "Recovery",
    "RunFacts",
    "RunHealth",
    "RungAge",
    "SaveRhythm",
    "percentile",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What the operator promises."""

    at_risk_s: float = 600.0
    """Most work of a running run that may be lost."""
    recovery_s: float = 300.0
    """Longest recovery, at the 95th percentile of what was measured."""
    budget_bytes: int | None = None
    """What may be stored below the root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RungAge:
    rung: str
    number: int
    step: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRisk:
    """Work that would be done again if everything died now."""

    seconds: float
    """Since the begin of the copy that became the version which a resume would take."""
    steps: int | None
    """At the speed of the attempt's newest versions; None while that is unknown."""
    worker_hours: float
    ahead_s: float = 0.0
    """How far the clock that commits is ahead of the one here: so much more may be at risk, and no late save shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Measured durations, oldest first."""

    drills_s: tuple[float, ...] = ()
    """Restore drills: a version brought back into fresh objects."""
    restarts_s: tuple[float, ...] = ()
    """Of each training that restored a version: reading it back, cluster and workers, restoring, up to its first step."""

    @property
    def measured(self) -> tuple[float, ...]:
        """What the objective is held against: drills, and restarts where no drill was made."""
        return self.drills_s or self.restarts_s

    @property
    def median_s(self) -> float | None:
        return statistics.median(self.measured) if self.measured else None

    @property
    def p95_s(self) -> float | None:
        return percentile(self.measured, 95)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRhythm:
    """How often versions were committed lately, and how often they should be."""

    interval_s: float | None
    """Median gap between commits of the newest training."""
    optimal_s: float | None
    """The interval of least expected waste, as `pawl interval` explains it; None until a save was measured."""
    missed: int
    """Saves that are overdue now."""
    dropped: int = 0
    """Saves that became no version, as the newest versions tell: an upload failed, the store refused …"""
    dropped_reason: str | None = None
    """Why the last of them was dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHealth:
    run: str
    status: str
    rungs: tuple[RungAge, ...]
    at_risk: AtRisk | None
    """None unless the run trains now."""
    recovery: Recovery
    rhythm: SaveRhythm
    failures: tuple[str, ...]
    """How attempts ended that failed or were lost, newest first; not those that somebody asked to end."""
    quarantined: tuple[tuple[int, str], ...]
    """Number and reason, newest first."""
    verdict: str
    """`ready`, `warning` or `critical`."""
    reason: str
    action: str
    """What to do about it; empty when there is nothing to do."""

    def to_json(self) -> dict[str, Any]:
        risk, recovery, rhythm = self.at_risk, self.recovery, self.rhythm
        return {
            "run": self.run,
            "status": self.status,
            "verdict": self.verdict,
            "reason": self.reason,
            "action": self.action,
            "rungs": {
                r.rung: {"number": r.number, "step": r.step, "age_s": round(r.age_s, 3)}
                for r in self.rungs
            },
            "at_risk": None
            if risk is None
            else {
                "seconds": round(risk.seconds, 3),
                "steps": risk.steps,
                "worker_hours": round(risk.worker_hours, 4),
            },
            "recovery": {
                "drills": len(recovery.drills_s),
                "resumes": len(recovery.restarts_s),
                "median_s": recovery.median_s,
                "p95_s": recovery.p95_s,
            },
            "saves": {
                "interval_s": rhythm.interval_s,
                "optimal_s": rhythm.optimal_s,
                "missed": rhythm.missed,
                "dropped": rhythm.dropped,
                "dropped_reason": rhythm.dropped_reason,
            },
            "failures": list(self.failures),
            "quarantined": [{"number": n, "reason": reason} for n, reason in self.quarantined],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known of one run besides its log's state."""

    status: str
    world_size: int = 1
    drills_s: Sequence[float] = ()
    restarts_s: Sequence[float] = ()
    """As in `Recovery`."""
    until_committed_s: Mapping[int, float] = field(default_factory=dict)
    """Of versions, by number: seconds from the begin of the copy until it was stored."""
    optimal_s: float | None = None
    """As in `SaveRhythm`."""
    dropped: Sequence[tuple[int, str]] = ()
    """How many saves before a version were dropped, and why the last; of the newest versions, oldest first."""


def percentile(values: Sequence[float], share: float) -> float | None:
    """By nearest rank, so it is a value that was measured; None of nothing."""
    ranked = sorted(values)
    if not ranked:
        return None
    return ranked[max(0, math.ceil(share / 100 * len(ranked)) - 1)]
