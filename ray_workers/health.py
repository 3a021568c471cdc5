"""How well each run could come back right now, and what that costs: facts in, findings out. Pure.

The words: *at risk* is the work since the begin of the copy that became the newest version which a resume would take;
*recovery* is how long coming back takes; *ready* is the one verdict over both (`readiness`), with its reason. Times are
seconds; instants are UTC.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from datetime import datetime

from ray_workers.attempt_chains import end_cause, newest_chain
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
_FAILURES = ("infrastructure", "user")
"""Causes of an end that nobody asked for."""


def assess_run(state: RunState, facts: RunFacts, objective: Objective, now: datetime) -> RunHealth:
    """One run as it stands at `now`."""
    recovery = Recovery(drills_s=tuple(facts.drills_s), restarts_s=tuple(facts.restarts_s))
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


def _at_risk(state: RunState, facts: RunFacts, now: datetime) -> AtRisk | None:
    chain = newest_chain(state)
    since = _unsaved_s(state, facts, chain, now) if chain else None
    if since is None:
        return None
    rate = _steps_per_second(state, chain)
    return AtRisk(
        seconds=since,
        steps=None if rate is None else round(rate * since),
        worker_hours=since / 3600 * facts.world_size,
        ahead_s=_ahead(state, chain, now),
    )


def _unsaved_s(
    state: RunState, facts: RunFacts, chain: Sequence[AttemptState], now: datetime
) -> float | None:
    version = newest_at(state, required_rung(state))
    if version is None or version.fence not in {attempt.fence for attempt in chain}:
        # Until it has a version of that rung a training has all of its own time to lose, and nothing of the others'.
        return _since(chain[0].at, now)
    since = _since(version.at, now)
    # What was done while that version was on its way is not in it.
    return None if since is None else since + facts.until_committed_s.get(version.number, 0.0)


def _ahead(state: RunState, chain: Sequence[AttemptState], now: datetime) -> float:
    """How far after `now` the training began or committed, by its own clock; 0 if it did not."""
    told = [_instant(chain[0].at), *(at for at, _ in _commits(state, chain))]
    return max([0.0, *(at - now.timestamp() for at in told if at is not None)])


def _commits(state: RunState, chain: Sequence[AttemptState]) -> list[tuple[float, int]]:
    """Instant and step of the training's newest commits, oldest first."""
    fences = {attempt.fence for attempt in chain}
    own = [v for v in state.newest_first() if v.fence in fences][:_RECENT_VERSIONS]
    told = [(instant, v.step) for v in reversed(own) if (instant := _instant(v.at)) is not None]
    return sorted(told)


def _steps_per_second(state: RunState, chain: Sequence[AttemptState]) -> float | None:
    attempt, commits = chain[0], _commits(state, chain)
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


def _rhythm(state: RunState, facts: RunFacts, now: datetime) -> SaveRhythm:
    times = [at for at, _ in _commits(state, newest_chain(state))]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    interval = statistics.median(gaps) if len(gaps) >= _ENOUGH_GAPS else None
    missed = 0
    if interval and facts.status == "running":
        overdue = (now.timestamp() - times[-1]) / interval
        missed = int(overdue) - 1 if overdue >= _LATE else 0
    return SaveRhythm(
        interval_s=interval,
        optimal_s=facts.optimal_s,
        missed=missed,
        dropped=sum(count for count, _ in facts.dropped),
        dropped_reason=facts.dropped[-1][1] if facts.dropped else None,
    )


def _failures(state: RunState) -> tuple[str, ...]:
    told = []
    for fence in sorted(state.attempts, reverse=True):
        attempt = state.attempts[fence]
        if end_cause(state, attempt) not in _FAILURES:
            continue
        if attempt.outcome is None:
            told.append(f"{attempt.at[:19]} lost: its end was not recorded")
        else:
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
