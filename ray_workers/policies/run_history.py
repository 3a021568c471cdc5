"""What an orchestrator's history of runs says of failures, beside what the commit log says. Pure.

Both see the same attempts: one that stands in the log is taken from there, because the log knows its end best, unless it
has none. What is left are attempts of other runs on the same machines, and those that died before they had a fence.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

from ray_workers.policies.failure_causes import cause_of_error
from ray_workers.policies.failure_rate import Evidence

__all__ = ["Spell", "cause_of_spell", "evidence_elsewhere"]

_RAISED = re.compile(r"encountered an exception:? (\w+)")
_ASKED = re.compile(
    r"AttemptInterruptedError|aborted by an interrupt signal|aborted by a termination signal"
    r"|cancelled by the runtime environment|system exit call",
    re.IGNORECASE,
)
"""How Prefect speaks of signals; a last version was saved before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """One time that a flow run was running. Seconds since 1970."""

    flow_run_id: str
    run_count: int
    """Which time it was, from 1."""
    begin_s: float
    end_s: float | None
    """None: it still runs."""
    workers: int
    ended: str | None
    """`completed`, `failed` (tried again or not), `crashed`, `cancelled`; None: it still runs, or nobody knows."""
    message: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """As the attempts of a commit log are known."""
        return self.flow_run_id, self.run_count


def cause_of_spell(ended: str | None, message: str) -> str:
    """One of `failure_causes.CAUSES`; an end of which nobody knows anything says nothing of machines."""
    if ended == "cancelled" or _ASKED.search(message):
        return "asked"
    if ended == "crashed":
        return "infrastructure"
    if ended != "failed":
        return "none"
    raised = _RAISED.search(message)
    return "user" if raised is None else cause_of_error(message, raised[1])


def evidence_elsewhere(
    spells: Iterable[Spell],
    *,
    in_log: Container[tuple[str, int]],
    open_ended: Container[tuple[str, int]] = (),
    now_s: float,
) -> tuple[Evidence, ...]:
    """What the commit log does not know, oldest first.

    Args:
        spells: in any order.
        now_s: seconds since 1970.
        in_log: (flow run id, run count) of the attempts in the log of the run that asks.
        open_ended: those of them that another flow run followed without a recorded end. The log takes that for a takeover;
            if the machine died, the orchestrator knows, and the failure is counted here. Their hours are in the log.
    """
    ordered = sorted(spells, key=lambda spell: spell.begin_s)
    found = [(spell, _evidence(spell, now_s)) for spell in ordered]
    return tuple(
        replace(evidence, worker_hours=0.0) if spell.key in in_log else evidence
        for spell, evidence in found
        if spell.key not in in_log or (spell.key in open_ended and evidence.failures)
    )


def _evidence(spell: Spell, now_s: float) -> Evidence:
    end_s = now_s if spell.end_s is None else spell.end_s
    return Evidence(
        failures=float(cause_of_spell(spell.ended, spell.message) == "infrastructure"),
        worker_hours=max(0.0, end_s - spell.begin_s) * spell.workers / 3600.0,
        age_hours=max(0.0, now_s - end_s) / 3600.0,
    )
