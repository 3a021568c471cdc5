"""How well each run could come back right now, and what that costs: facts in, findings out. Pure.

The words: *at risk* is the work since the newest version that a resume would take; *recovery* is how long coming back
takes; *ready* is the one verdict over both (`readiness`), with its reason. Times are seconds; instants are UTC.
"""

from __future__ import annotations

import itertools
import math
import statistics
from datetime import datetime

from ray_workers.health_values import (
    AtRisk,
    Objective,
    Recovery,
    RunFacts,
    RungAge,
    RunHealth,
    SaveRhythm,
)
from ray_workers.readiness import judge_readiness, newest_at, required_rung
from ray_workers.store.run_state import AttemptState, RunState

__all__ = ["assess_run"]

_RUNGS = ("committed", "verified", "sound", "restorable")
_ENOUGH_GAPS = 2
_LATE = 2.0
"""Times the usual interval after which a save counts as missed."""
_RECENT_VERSIONS = 20


def assess_run(state: RunState, facts: RunFacts, objective: Objective, now: datetime) -> RunHealth:
    """One run as it stands at `now`."""
    recovery = Recovery(drills_s=tuple(facts.drills_s), resumes_s=_resumes(state))
    rhythm = _rhythm(state, facts, now)
    at_risk = _at_risk(state, facts, now) if facts.status == "running" else None
    readiness = judge_readiness(state, facts.status, at_risk, recovery, objective)
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
        verdict=readiness.verdict,
        reason=readiness.reason,
        action=readiness.action,
    )


# --- one run ------------------------------------------------------------------------------------------------------


def _rung_ages(state: RunState, now: datetime) -> tuple[RungAge, ...]:
    found = []
    for rung in _RUNGS:
        version = newest_at(state, rung)
        if version is not None:
            age = _since(version.at, now)
            found.append(
                RungAge(rung=rung, number=version.number, step=version.step, age_s=age or 0.0)
            )
    return tuple(found)


def _newest_attempt(state: RunState) -> AttemptState | None:
    return max(state.attempts.values(), key=lambda a: a.fence, default=None)


def _at_risk(state: RunState, facts: RunFacts, now: datetime) -> AtRisk | None:
    attempt, version = _newest_attempt(state), newest_at(state, required_rung(state))
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
    return SaveRhythm(
        interval_s=interval,
        optimal_s=_optimal(state, facts, now),
        missed=missed,
        dropped=sum(count for count, _ in facts.dropped),
        dropped_reason=facts.dropped[-1][1] if facts.dropped else None,
    )


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


def _instant(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _since(text: str, now: datetime) -> float | None:
    at = _instant(text)
    return None if at is None else max(0.0, now.timestamp() - at)
