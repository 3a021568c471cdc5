"""How well each run could come back right now, and what that costs: facts in, findings out. Pure.

The words: *at risk* is the work since the newest version that a resume would take; *recovery* is how long coming back
takes; *ready* is the one verdict over both, with its reason. Times are seconds; instants are UTC.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ray_workers.store.run_state import AttemptState, RunState, VersionState, rung_at_least

__all__ = [
    "AtRisk",
    "Objective",
    "Recovery",
    "RunHealth",
    "RungAge",
    "SaveRhythm",
    "assess_run",
    "percentile",
]

_RUNGS = ("committed", "verified", "sound", "restorable")
_ENOUGH_GAPS = 2
_LATE = 2.0
"""Times the usual interval after which a save counts as missed."""
_RECENT_VERSIONS = 20
_STOPPED = frozenset({"died", "lost", "failed", "crashed"})


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
    steps: int | None
    """At the speed of the attempt's newest versions; None while that is unknown."""
    worker_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Measured durations, oldest first."""

    drills_s: tuple[float, ...] = ()
    """Restore drills: a version brought back into fresh objects."""
    resumes_s: tuple[float, ...] = ()
    """From an attempt's start to its first new version: an upper bound, one interval of training included."""

    @property
    def measured(self) -> tuple[float, ...]:
        """What the objective is held against: drills, and resumes where no drill was made."""
        return self.drills_s or self.resumes_s

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
    """Median gap between commits of the newest attempt."""
    optimal_s: float | None
    """Young's first-order optimum sqrt(2 C M), from what a save costs training and how often attempts died."""
    missed: int
    """Saves that are overdue now."""


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
    """How attempts ended that did not complete, newest first."""
    quarantined: tuple[tuple[int, str], ...]
    """Number and reason, newest first."""
    verdict: str
    """`ready`, `warning` or `critical`."""
    reason: str

    def to_json(self) -> dict[str, Any]:
        risk, recovery, rhythm = self.at_risk, self.recovery, self.rhythm
        return {
            "run": self.run,
            "status": self.status,
            "verdict": self.verdict,
            "reason": self.reason,
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
                "resumes": len(recovery.resumes_s),
                "median_s": recovery.median_s,
                "p95_s": recovery.p95_s,
            },
            "saves": {
                "interval_s": rhythm.interval_s,
                "optimal_s": rhythm.optimal_s,
                "missed": rhythm.missed,
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
    staging_s: Sequence[float] = field(default_factory=tuple)
    """Seconds that training stood still for each of the newest saves."""


def percentile(values: Sequence[float], share: float) -> float | None:
    """By nearest rank, so it is a value that was measured; None of nothing."""
    ranked = sorted(values)
    if not ranked:
        return None
    return ranked[max(0, math.ceil(share / 100 * len(ranked)) - 1)]


def assess_run(state: RunState, facts: RunFacts, objective: Objective, now: datetime) -> RunHealth:
    """One run as it stands at `now`."""
    recovery = Recovery(drills_s=tuple(facts.drills_s), resumes_s=_resumes(state))
    rhythm = _rhythm(state, facts, now)
    at_risk = _at_risk(state, facts, now) if facts.status == "running" else None
    verdict, reason = _verdict(state, facts, at_risk, recovery, objective)
    return RunHealth(
        run=state.run,
        status=facts.status,
        rungs=_rung_ages(state, now),
        at_risk=at_risk,
        recovery=recovery,
        rhythm=rhythm,
        failures=_failures(state),
        quarantined=tuple(
            (v.number, v.quarantine) for v in state.newest_first() if v.quarantine is not None
        ),
        verdict=verdict,
        reason=reason,
    )


# --- one run ------------------------------------------------------------------------------------------------------


def _rung_ages(state: RunState, now: datetime) -> tuple[RungAge, ...]:
    found = []
    for rung in _RUNGS:
        version = _newest_at(state, rung)
        if version is not None:
            age = _since(version.at, now)
            found.append(
                RungAge(rung=rung, number=version.number, step=version.step, age_s=age or 0.0)
            )
    return tuple(found)


def _newest_at(state: RunState, rung: str) -> VersionState | None:
    return next(
        (v for v in state.newest_first() if v.candidate and rung_at_least(v.rung, rung)), None
    )


def _required(state: RunState) -> str:
    attempt = _newest_attempt(state)
    return attempt.required or "sound" if attempt is not None else "sound"


def _resumable(state: RunState) -> VersionState | None:
    """What a resume would take: the newest at the required rung, else the newest that can still be validated."""
    return _newest_at(state, _required(state)) or _newest_at(state, "committed")


def _newest_attempt(state: RunState) -> AttemptState | None:
    return max(state.attempts.values(), key=lambda a: a.fence, default=None)


def _at_risk(state: RunState, facts: RunFacts, now: datetime) -> AtRisk | None:
    attempt, version = _newest_attempt(state), _newest_at(state, _required(state))
    if attempt is None:
        return None
    own = version is not None and version.fence == attempt.fence
    # Before its first version of that rung an attempt has all of its own time to lose, and nothing of the others'.
    since = _since(version.at if version is not None and own else attempt.at, now)
    if since is None:
        return None
    rate = _steps_per_second(state, attempt)
    return AtRisk(
        seconds=since,
        steps=None if rate is None else round(rate * since),
        worker_hours=since / 3600 * facts.world_size,
    )


def _commits(state: RunState, attempt: AttemptState) -> list[tuple[float, int]]:
    """Instant and step of the attempt's newest commits, oldest first."""
    own = [v for v in state.newest_first() if v.fence == attempt.fence][:_RECENT_VERSIONS]
    told = [(instant, v.step) for v in reversed(own) if (instant := _instant(v.at)) is not None]
    return sorted(told)


def _steps_per_second(state: RunState, attempt: AttemptState) -> float | None:
    commits = _commits(state, attempt)
    if not commits:
        return None
    begin, end = commits[0], commits[-1]
    if begin is end:
        started = _instant(attempt.at)
        first = 0 if attempt.resume is None else _resume_step(state, attempt)
        if started is None or first is None:
            return None
        begin = (started, first)
    seconds = end[0] - begin[0]
    return (end[1] - begin[1]) / seconds if seconds > 0 else None


def _resume_step(state: RunState, attempt: AttemptState) -> int | None:
    if attempt.resume is None or attempt.resume_origin is not None:
        return None
    version = state.find(attempt.resume)
    return None if version is None else version.step


def _resumes(state: RunState) -> tuple[float, ...]:
    found = []
    for fence in sorted(state.attempts):
        attempt = state.attempts[fence]
        own = [v for v in state.versions.values() if v.fence == fence]
        if attempt.resume is None or not own:
            continue
        first, start = _instant(min(own, key=lambda v: v.number).at), _instant(attempt.at)
        if first is not None and start is not None and first >= start:
            found.append(round(first - start, 3))
    return tuple(found)


def _rhythm(state: RunState, facts: RunFacts, now: datetime) -> SaveRhythm:
    attempt = _newest_attempt(state)
    times = [at for at, _ in _commits(state, attempt)] if attempt is not None else []
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    interval = statistics.median(gaps) if len(gaps) >= _ENOUGH_GAPS else None
    missed = 0
    if interval and facts.status == "running":
        overdue = (now.timestamp() - times[-1]) / interval
        missed = int(overdue) - 1 if overdue >= _LATE else 0
    return SaveRhythm(interval_s=interval, optimal_s=_optimal(state, facts, now), missed=missed)


def _optimal(state: RunState, facts: RunFacts, now: datetime) -> float | None:
    """Young (1974): sqrt(2 x cost of a save x mean time between failures), once there was a failure."""
    failures = len(_failures(state))
    started = [at for a in state.attempts.values() if (at := _instant(a.at)) is not None]
    if not failures or not facts.staging_s or not started:
        return None
    between = (now.timestamp() - min(started)) / failures
    return math.sqrt(2 * statistics.median(facts.staging_s) * between) if between > 0 else None


def _failures(state: RunState) -> tuple[str, ...]:
    told = []
    for fence in sorted(state.attempts, reverse=True):
        attempt = state.attempts[fence]
        lost = attempt.outcome is None and state.open_fence != fence
        if lost:
            told.append(f"{attempt.at[:19]} lost: its end was not recorded")
        elif attempt.outcome not in (None, "completed", "finished"):
            told.append(
                f"{(attempt.ended_at or '')[:19]} {attempt.outcome}: {attempt.reason or 'no reason told'}"
            )
    return tuple(told)


def _verdict(
    state: RunState,
    facts: RunFacts,
    at_risk: AtRisk | None,
    recovery: Recovery,
    objective: Objective,
) -> tuple[str, str]:
    """The worst finding, and why; one sentence that an operator can act on."""
    if facts.status in {"deleted", "new"}:
        return "ready", f"nothing to recover: the run is {facts.status}"
    version = _resumable(state)
    if version is None:
        return _without_version(state, at_risk, objective)
    problem = _missed(state, at_risk, recovery, objective)
    if problem is None and facts.status in _STOPPED:
        problem = f"it is {facts.status} and nobody goes on with it; it would resume from version {version.number}"
    if problem is not None:
        return "warning", problem
    return "ready", f"version {version.number} (step {version.step}, {version.rung}) can be resumed"


def _missed(
    state: RunState, at_risk: AtRisk | None, recovery: Recovery, objective: Objective
) -> str | None:
    if at_risk is not None and at_risk.seconds > objective.at_risk_s:
        return (
            f"{at_risk.seconds / 60:.1f} min of work at risk, {objective.at_risk_s / 60:g} allowed: no newer version "
            f"is {_required(state)}"
        )
    slow = recovery.p95_s
    if slow is not None and slow > objective.recovery_s:
        return f"recovery takes {slow / 60:.1f} min (95th percentile), {objective.recovery_s / 60:g} allowed"
    if state.unrepaired:
        slots = ", ".join(map(str, state.unrepaired[:5]))
        return f"log slots {slots} are damaged and not repaired"
    return None


def _without_version(
    state: RunState, at_risk: AtRisk | None, objective: Objective
) -> tuple[str, str]:
    bad = sum(v.quarantine is not None for v in state.versions.values())
    if bad:
        return "critical", f"no version can be resumed: {bad} quarantined"
    if at_risk is not None and at_risk.seconds <= objective.at_risk_s:
        return "ready", "it began a moment ago and has no version yet"
    return "critical", "it has no version to resume from"


def _instant(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _since(text: str, now: datetime) -> float | None:
    at = _instant(text)
    return None if at is None else max(0.0, now.timestamp() - at)
