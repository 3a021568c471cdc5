"""What interrupted a run, attempt by attempt: what ended the last one, what was resumed and why, and what it cost by phase.

Pure: everything comes from a run's report. The phases between two attempts, in the order of time:

    in vain    work after the version that is resumed, until the end (or the last sign) of the attempt before
    unnoticed  from the last sign of an attempt whose end was not recorded to the start of the next: until it was detected
               that it had died, and until the next was scheduled; some of it may have been training
    schedule   from an attempt's recorded end to the start of the next
    choose     from an attempt's start to the choice of its resume point
    verify     reading that version back
    start      cluster and workers, until the loop opened its session
    restore    downloading it again in the workers, verifying it and filling the state
    warm up    until the end of the first step
    redo       doing again the steps that were lost, at the pace of the attempt that does them

The four from `verify` on were measured in the attempt and stand in the manifests of its versions, so they are unknown
for one that made none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ray_workers.report import AttemptRow, RunReport, VersionRow

__all__ = ["PHASES", "Interruption", "interruptions"]

PHASES = (
    "in vain", "unnoticed", "schedule", "choose", "verify", "start", "restore", "warm up", "redo",
)  # fmt: skip

_MEASURED = {
    "verify": "verify_s", "start": "start_s", "restore": "restore_s", "warm up": "warm_up_s",
}  # fmt: skip


_ENDINGS = {"ctrl-c": "Ctrl-C", "sigterm": "SIGTERM", "time limit": "time limit"}
"""How the reason of an interrupted attempt begins, and what it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """Between one attempt and the next."""

    attempt: int
    """The one that goes on."""
    before: int
    what: str
    """What ended the attempt before: `exception`, `cancelled`, `Ctrl-C`, `SIGTERM`, `time limit`, `preempted`, `crash`,
    `actor restarted` or `completed`."""
    detail: str | None
    host: str
    """Of the attempt before."""
    resumed: str | None
    """Version, as text; None: it starts from nothing."""
    step: int | None
    passed_over: tuple[tuple[str, str], ...]
    steps_lost: int | None
    seconds: Mapping[str, float]
    """By phase, in the order of `PHASES`; what is not known is left out."""

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "before": self.before,
            "ended_by": self.what,
            "detail": self.detail,
            "host": self.host,
            "resumed": self.resumed,
            "step": self.step,
            "passed_over": [{"version": v, "reason": reason} for v, reason in self.passed_over],
            "steps_lost": self.steps_lost,
            "seconds": dict(self.seconds),
        }


def interruptions(report: RunReport) -> tuple[Interruption, ...]:
    """One for every attempt but the first, oldest first."""
    rows = report.attempts
    return tuple(_between(report, rows[at - 1], rows[at]) for at in range(1, len(rows)))


def _between(report: RunReport, before: AttemptRow, after: AttemptRow) -> Interruption:
    version = next((v for v in report.versions if str(v.number) == after.resumed_from), None)
    return Interruption(
        attempt=after.number,
        before=before.number,
        what=_what(before, after),
        detail=before.reason,
        host=before.host,
        resumed=after.resumed_from,
        step=after.resume_step if version is None else version.step,
        passed_over=after.passed_over,
        steps_lost=after.steps_lost,
        seconds=_seconds(report, before, after, version),
    )


def _what(before: AttemptRow, after: AttemptRow) -> str:
    reason = (before.reason or "").lower()
    if before.outcome == "completed":
        return "completed"
    if "preempt" in reason or reason.startswith("node draining"):
        return "preempted"
    if before.outcome == "failed":
        return "exception"
    if before.outcome in ("lost", None):
        again = (before.flow_run_id, before.run_count) == (after.flow_run_id, after.run_count)
        return "actor restarted" if again else "crash"
    return next((what for word, what in _ENDINGS.items() if reason.startswith(word)), "cancelled")


def _seconds(
    report: RunReport, before: AttemptRow, after: AttemptRow, version: VersionRow | None
) -> dict[str, float]:
    own = [v for v in report.versions if v.attempt == after.number]
    startup = own[0].startup if own else {}
    last_sign = max([before.started_at, *_commits(report, before)])
    kept = before.started_at if version is None else max(version.committed_at, before.started_at)
    found = {
        "in vain": _gap(kept, before.ended_at or last_sign),
        "unnoticed": None if before.ended_at else _gap(last_sign, after.started_at),
        "schedule": _gap(before.ended_at, after.started_at),
        "choose": _gap(after.started_at, after.resumed_at),
        "redo": _redo(own, after.steps_lost),
        **{phase: startup.get(name) for phase, name in _MEASURED.items()},
    }
    if before.outcome == "completed":
        found["schedule"] = None  # nobody waited for anything
    return {phase: round(s, 3) for phase in PHASES if (s := found[phase]) is not None}


def _commits(report: RunReport, attempt: AttemptRow) -> list[str]:
    return [v.committed_at for v in report.versions if v.attempt == attempt.number]


def _redo(own: list[VersionRow], steps: int | None) -> float | None:
    """At the pace between the attempt's first and last version."""
    if not steps:
        return None if steps is None else 0.0
    if len(own) <= 1 or own[-1].step <= own[0].step:
        return None
    seconds = _gap(own[0].committed_at, own[-1].committed_at)
    return None if seconds is None else steps * seconds / (own[-1].step - own[0].step)


def _gap(start: str | None, end: str | None) -> float | None:
    try:
        if start is None or end is None:
            return None
        return max(
            0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
        )
    except (ValueError, TypeError):
        return None
