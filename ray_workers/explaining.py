"""What interrupted a run, attempt by attempt: what ended the last one, what was resumed and why, and what it cost by phase.

Pure: everything comes from a run's report. The phases between two attempts, in the order of time:

    in vain    work after the version that is resumed, until the end (or the last sign) of the attempt before
    detect     from the first sign that a rank was gone until the attempt was given up
    settle     until what was in flight then was committed and judged, or given up
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
for one that made none. A checkpoint actor that is started again has none of them: training goes on meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ray_workers.policies.failure_causes import asked_by, is_broken_group, is_lost
from ray_workers.policies.failure_words import Failure, read_failure
from ray_workers.report import AttemptRow, RunReport, VersionRow

__all__ = ["ENDINGS", "PHASES", "Interruption", "interruptions"]

PHASES = (
    "in vain", "detect", "settle", "unnoticed", "schedule", "choose", "verify", "start", "restore", "warm up", "redo",
)  # fmt: skip

_MEASURED = {
    "verify": "verify_s", "start": "start_s", "restore": "restore_s", "warm up": "warm_up_s",
}  # fmt: skip


ENDINGS = (
    "exception", "worker lost", "node lost", "cluster lost", "saves failed", "cancelled", "Ctrl-C", "SIGTERM", "ended by Prefect", "time limit",
    "preempted", "resized", "crash", "actor restarted", "completed",
)  # fmt: skip
"""*worker lost*: a rank's process died, or the others lost the connection to it. *crash*: the end was not recorded."""

_NODE_DIED = re.compile(
    r"\bnode (has |was |is )?(died|dead|terminated|removed|draining|drained)", re.IGNORECASE
)
"""Ray's words in the error of an actor: `The actor died because its node has died.`"""
_WENT_ON = "training went on while the checkpoint actor was started again"
_DRAINING = re.compile(r"^node draining \(node ([^,()]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """Between one attempt and the next."""

    attempt: int
    """The one that goes on."""
    before: int
    what: str
    """What ended the attempt before: one of `ENDINGS`."""
    detail: str | None
    host: str
    """On which the flow of the attempt before ran."""
    rank: int | None
    """Which failed; None: none did before the others, or nobody knows."""
    node: str | None
    """On which that rank trained, or which was about to go."""
    resumed: str | None
    """Version, as text; None: it starts from nothing, or had not chosen. Where training went on: from that version."""
    why: str
    """That one, or none."""
    step: int | None
    passed_over: tuple[tuple[str, str], ...]
    steps_lost: int | None
    undecided: bool
    """What it started from is not known: it had not chosen."""
    seconds: Mapping[str, float]
    """By phase, in the order of `PHASES`; what is not known is left out."""

    @property
    def went_on(self) -> bool:
        """Training did not stop."""
        return self.what == "actor restarted"

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
            "rank": self.rank,
            "node": self.node,
            "resumed": self.resumed,
            "why": self.why,
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
    failure = None if before.outcome != "failed" else read_failure(before.reason or "")
    what = _what(before, after, failure)
    went_on = what == "actor restarted"
    return Interruption(
        attempt=after.number,
        before=before.number,
        what=what,
        detail=before.reason,
        host=before.host,
        rank=None if failure is None else failure.rank,
        node=_draining(before) if failure is None else failure.node,
        resumed=after.resumed_from,
        why=_WENT_ON if went_on else _why(report, after),
        step=after.resume_step if version is None else version.step,
        passed_over=after.passed_over,
        steps_lost=after.steps_lost,
        undecided=after.undecided,
        seconds={} if went_on else _seconds(report, before, after, version, failure),
    )


def _why(report: RunReport, after: AttemptRow) -> str:
    if after.resumed_from is None:
        if after.resumed_at is None:
            return "nothing was chosen before it ended"
        if after.asked is not None:
            return f"as it was asked (resume: {after.asked})"
        known = any(v.attempt < after.number for v in report.versions)
        return "no version could be resumed" if known else "there was no version yet"
    if "@" in after.resumed_from:
        return "the origin of the fork"
    if after.asked is not None:
        return f"as it was asked (resume: {after.asked})"
    rung = "the required rung" if after.required is None else f"rung {after.required}"
    return f"the newest at {rung} or above that held up when it was read back"


def _what(before: AttemptRow, after: AttemptRow, failure: Failure | None) -> str:
    reason = (before.reason or "").lower()
    if before.outcome == "completed":
        return "completed"
    if before.outcome == "failed":
        return _failed(reason) if failure is None else _fell(failure)
    if before.outcome in ("lost", None):
        # A flow run that adopts a living attempt renames its newest writer alone.
        again = (before.flow_run_id, before.run_count) == (after.flow_run_id, after.run_count)
        return "actor restarted" if again or after.restarted else "crash"
    return asked_by(before.reason)


def _failed(reason: str) -> str:
    """No rank is named."""
    if "failure budget" in reason:
        return "saves failed"
    return "cluster lost" if reason.startswith("training of run ") else "exception"


def _fell(failure: Failure) -> str:
    if failure.preempted:
        return "preempted"
    if is_lost(failure.error):
        return "node lost" if _NODE_DIED.search(failure.said) else "worker lost"
    return "worker lost" if is_broken_group(failure.error, failure.said) else "exception"


def _draining(before: AttemptRow) -> str | None:
    found = _DRAINING.match(before.reason or "") if before.outcome == "interrupted" else None
    return None if found is None else found[1]


def _seconds(
    report: RunReport,
    before: AttemptRow,
    after: AttemptRow,
    version: VersionRow | None,
    failure: Failure | None,
) -> dict[str, float]:
    own = [v for v in report.versions if v.attempt == after.number]
    startup = own[0].startup if own else {}
    last_sign = max([before.started_at, *_commits(report, before)])
    kept = before.started_at if version is None else max(version.committed_at, before.started_at)
    noticed_s, settled_s = _noticed(failure)
    worked = _gap(kept, before.ended_at or last_sign)
    found = {
        "in vain": None
        if worked is None
        else max(0.0, worked - (noticed_s or 0) - (settled_s or 0)),
        "detect": noticed_s,
        "settle": settled_s,
        "unnoticed": None if before.ended_at else _gap(last_sign, after.started_at),
        "schedule": _gap(before.ended_at, after.started_at),
        "choose": _gap(after.started_at, after.resumed_at),
        "redo": _redo(own, after.steps_lost),
        **{phase: startup.get(name) for phase, name in _MEASURED.items()},
    }
    if before.outcome == "completed":
        found["schedule"] = None  # nobody waited for anything
    return {phase: round(s, 3) for phase in PHASES if (s := found[phase]) is not None}


def _noticed(failure: Failure | None) -> tuple[float | None, float | None]:
    return (None, None) if failure is None else (failure.noticed_s, failure.settled_s)


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
