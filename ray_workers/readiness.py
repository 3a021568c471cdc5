"""The one verdict over a run: could it come back within what was promised, if not why, and what to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ray_workers.attempt_chains import newest_chain
from ray_workers.health_values import AtRisk, Objective, Recovery
from ray_workers.policies.failure_causes import asked_by
from ray_workers.store.run_state import RunState, VersionState, rung_at_least

__all__ = ["Readiness", "judge_readiness", "newest_at", "required_rung"]

_STOPPED = {"died": "died", "lost": "was lost", "failed": "failed"}
"""How a run that nobody goes on with came to its end, by its status."""
_WANTED = ("Ctrl-C", "cancelled")
"""Interruptions by a person, who knows that the run stands still."""
_DONE = ("completed", "finished")
_CLOCK_S = 60.0
"""So far clocks may be apart before what is at risk is called unknown."""
_AGAIN = "run the same `pawl train` again, or Retry on its flow run's page"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    verdict: str
    """`ready`, `warning` or `critical`."""
    reason: str
    action: str = ""


def judge_readiness(
    state: RunState,
    status: str,
    at_risk: AtRisk | None,
    recovery: Recovery,
    objective: Objective,
) -> Readiness:
    """The worst finding; one sentence that an operator can act on, and the act.

    Args:
        state: the run's log.
        status: as `run_listing.run_status` tells it.
        at_risk: None unless the run trains now.
        recovery: what was measured.
        objective: what is promised.
    """
    if status in {"deleted", "new"}:
        return Readiness(verdict="ready", reason=f"nothing to recover: the run is {status}")
    # What a resume would take: the newest at the required rung, else the newest that can still be validated.
    version = newest_at(state, required_rung(state)) or newest_at(state, "committed")
    if version is None:
        return _without_version(state, status, at_risk, objective)
    found = (
        _clocks_apart(at_risk)
        or _too_much_at_risk(state, at_risk, objective)
        or (None if status in _DONE else _too_slow(recovery, objective))
        or _damaged(state)
        or _stopped(state, status, version)
    )
    ready = f"version {version.number} (step {version.step}, {version.rung}) can be resumed"
    return found or Readiness(verdict="ready", reason=ready)


def newest_at(state: RunState, rung: str) -> VersionState | None:
    """The newest version that may be resumed and has at least this rung."""
    return next(
        (v for v in state.newest_first() if v.candidate and rung_at_least(v.rung, rung)), None
    )


def required_rung(state: RunState) -> str:
    """The rung that the newest training asked of its resume point."""
    chain = newest_chain(state)
    return chain[0].required or "sound" if chain else "sound"


def _clocks_apart(at_risk: AtRisk | None) -> Readiness | None:
    if at_risk is None or at_risk.ahead_s <= _CLOCK_S:
        return None
    return Readiness(
        verdict="warning",
        reason=f"its clock is {at_risk.ahead_s / 60:.1f} min ahead of the clock here, so what is at risk is not known",
        action="set both clocks by one time server; `pawl doctor` compares the one here with the store's",
    )


def _too_much_at_risk(
    state: RunState, at_risk: AtRisk | None, objective: Objective
) -> Readiness | None:
    if at_risk is None or at_risk.seconds <= objective.at_risk_s:
        return None
    return Readiness(
        verdict="warning",
        reason=f"{at_risk.seconds / 60:.1f} min of work at risk, {objective.at_risk_s / 60:g} allowed: no newer version "
        f"is {required_rung(state)}",
        action=f"is its validator behind (`pawl versions {state.run}`), or were saves dropped (its flow run's Logs)?",
    )


def _too_slow(recovery: Recovery, objective: Objective) -> Readiness | None:
    slow = recovery.p95_s
    if slow is None or slow <= objective.recovery_s:
        return None
    return Readiness(
        verdict="warning",
        reason=f"recovery takes {slow / 60:.1f} min (95th percentile), {objective.recovery_s / 60:g} allowed",
        action="fewer bytes a version, a nearer store, or another objective",
    )


def _damaged(state: RunState) -> Readiness | None:
    if not state.unrepaired:
        return None
    slots = ", ".join(map(str, state.unrepaired[:5]))
    return Readiness(
        verdict="warning",
        reason=f"log slots {slots} are damaged and not repaired",
        action=f"`pawl repair {state.run}` says what they may have held",
    )


def _stopped(state: RunState, status: str, version: VersionState) -> Readiness | None:
    how = _STOPPED.get(status)
    if status == "interrupted":
        chain = newest_chain(state)
        by = asked_by(chain[-1].reason if chain else None)
        how = None if by in _WANTED else f"was interrupted ({by})"
    if how is None:
        return None
    return Readiness(
        verdict="warning",
        reason=f"it {how} and nobody goes on with it; it would resume from version {version.number}",
        action=_AGAIN,
    )


def _without_version(
    state: RunState, status: str, at_risk: AtRisk | None, objective: Objective
) -> Readiness:
    # One that was left behind, or is deleted, is not what the run would begin from, bad or good.
    present = (v for v in state.versions.values() if v.readable and not v.abandoned)
    bad = sum(v.quarantine is not None for v in present)
    if bad:
        return Readiness(
            verdict="critical",
            reason=f"no version can be resumed: {bad} quarantined",
            action=f"`pawl lineage {state.run}` and `pawl verify {state.run}` tell why; if its jump is right, widen `validation`",
        )
    apart = _clocks_apart(at_risk)
    if apart is not None:
        return apart
    if at_risk is not None and at_risk.seconds <= objective.at_risk_s:
        return Readiness(verdict="ready", reason="it began a moment ago and has no version yet")
    trains = status == "running"
    return Readiness(
        verdict="critical",
        reason="it has no version to resume from",
        action="see its flow run's Logs for saves that were dropped; `pawl doctor`"
        if trains
        else f"{_AGAIN}; or `pawl delete {state.run}`",
    )
