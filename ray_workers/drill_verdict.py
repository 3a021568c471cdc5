"""What a restore drill shows: notes of the worker and what the store remembers in, a verdict out. Pure.

A drill that fails quarantines its version only if the version is at fault. Bytes that do not hold are found by reading
them; the one other fault is a model whose probe gives, under the very conditions under which it was saved, another loss
than it gave then. Everything else (a worker that dies, a loop that raises, another loss of the next step on another
machine) may be the machine's fault or the loop's, and leaves the version at the rung that it had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_workers.drill_notes import DrillNotes

__all__ = ["DrillVerdict", "Remembered", "judge_drill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What the store knows of the version and of the step after it."""

    finished: bool
    """There is no step after it."""
    probe: float | None
    metric: str
    next_value: float | None
    """Of `metric`, recorded for the step after the version; None: not recorded, or not under these conditions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillVerdict:
    passed: bool
    reason: str | None = None
    version_at_fault: bool = False
    """The version itself is not what was trained: quarantine it."""
    evidence: Mapping[str, Any] = field(default_factory=dict)


def judge_drill(remembered: Remembered, notes: DrillNotes, tolerance: float) -> DrillVerdict:
    """Compare what was seen with what is remembered, as far as the two can be compared.

    Args:
        remembered: from the store.
        notes: of rank 0.
        tolerance: greatest relative difference between two losses that count as equal.
    """
    found = notes.metrics.get(remembered.metric)
    evidence = _evidence(remembered, notes, found)
    # The last version of a run does not always say so: a loader without length does not tell that it ends.
    if notes.steps == 0 and not (remembered.finished or notes.through):
        return DrillVerdict(passed=False, reason="the loop ended without a step", evidence=evidence)
    reason, at_fault = _probe_problem(remembered, notes, tolerance)
    if reason is None and notes.steps and found is not None:
        reason = _step_problem(remembered, notes, found, tolerance)
    return DrillVerdict(
        passed=reason is None, reason=reason, version_at_fault=at_fault, evidence=evidence
    )


def _probe_problem(
    remembered: Remembered, notes: DrillNotes, tolerance: float
) -> tuple[str | None, bool]:
    if remembered.probe is None or not notes.probes:
        return None, False
    first, *others = notes.probes
    if any(_differ(first, other, tolerance) for other in others):
        return f"the probe gives {first:.9g} and then {others[-1]:.9g} on the same model", False
    if not _differ(remembered.probe, first, tolerance):
        return None, False
    reason = f"the loss of its probe was {remembered.probe:.9g} when it was saved and is {first:.9g} after the restore"
    if notes.changes:
        return f"{reason}; here is otherwise: {', '.join(notes.changes)}", False
    return f"{reason}: what is stored is not what was trained", True


def _step_problem(
    remembered: Remembered, notes: DrillNotes, found: float, tolerance: float
) -> str | None:
    if not math.isfinite(found):
        return f"the {remembered.metric} of the step after the restore is {found}"
    if remembered.next_value is None or notes.changes:
        return None
    if not _differ(remembered.next_value, found, tolerance):
        return None
    return (
        f"the {remembered.metric} of the step after it was {remembered.next_value:.9g} and is {found:.9g} after the "
        "restore, under the same conditions: something that training hangs on did not come back, or the machine errs"
    )


def _evidence(remembered: Remembered, notes: DrillNotes, found: float | None) -> dict[str, Any]:
    recorded = remembered.next_value
    told = {
        "probe_saved": remembered.probe if notes.probes else None,
        "probe_read": notes.probes[0] if notes.probes else None,
        "value": found if notes.steps else None,
        "value_recorded": recorded if notes.steps else None,
        "metric": remembered.metric if found is not None and notes.steps else None,
        "bit_identical": found == recorded if recorded is not None and notes.steps else None,
        "changes": ", ".join(notes.changes) or None,
    }
    spelled = {name: _spelled(value) for name, value in told.items() if value is not None}
    return {"steps": notes.steps, **spelled}


def _differ(expected: float, found: float, tolerance: float) -> bool:
    if expected == found:
        return False
    difference = abs(found - expected) / max(abs(expected), 1e-12)
    return not difference <= tolerance  # a NaN differs


def _spelled(value: Any) -> Any:
    """JSON has no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
