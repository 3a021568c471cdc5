"""What restore drills found, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_workers.drilling import DrillOutcome
from tasks.markdown_text import plain

__all__ = ["PHASES", "DrillReport", "Undone", "drill_page"]

PHASES = {
    "verify_s": "read back",
    "cluster_s": "cluster",
    "start_s": "workers",
    "restore_s": "restore",
    "first_step_s": "first step",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    run: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillReport:
    outcomes: tuple[DrillOutcome, ...]
    undone: tuple[Undone, ...] = ()
    """What could not be drilled, which says nothing about the versions."""

    @property
    def failed(self) -> int:
        return sum(not one.passed for one in self.outcomes) + len(self.undone)

    @property
    def headline(self) -> str:
        passed = sum(one.passed for one in self.outcomes)
        text = f"{passed} of {len(self.outcomes)} drills passed"
        slowest = max((_seconds(one) or 0.0 for one in self.outcomes if one.passed), default=None)
        if slowest is not None:
            text += f", the slowest in {slowest:.1f} s"
        if self.undone:
            text += f"; {len(self.undone)} could not be made"
        troubles = [
            f"{one.run}@{one.number}: {one.reason}" for one in self.outcomes if not one.passed
        ]
        troubles += [f"{one.run}: {one.reason}" for one in self.undone]
        return f"{text}. {troubles[0]}" if troubles else text


def drill_page(report: DrillReport) -> str:
    """A line for each drill, with the seconds by phase; then what went wrong."""
    head = ["version", "step", "workers", "verdict", *PHASES.values(), "together", "compared"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_row(one))} |" for one in report.outcomes]
    problems = [
        f"- {plain(one.run)}@{one.number}{' (quarantined)' if one.quarantined else ''}: "
        f"{plain(one.reason or '', 600)}"
        for one in report.outcomes
        if not one.passed
    ]
    problems += [f"- {plain(one.run)}: {plain(one.reason, 600)}" for one in report.undone]
    parts = ["# Restore drills", plain(report.headline, 600)]
    if report.outcomes:
        parts.append("\n".join(lines))
    if problems:
        parts.append("\n".join(problems))
    return "\n\n".join(parts) + "\n"


def _row(one: DrillOutcome) -> Sequence[str]:
    seconds = [one.evidence.get(phase) for phase in PHASES]
    told = ["" if s is None else f"{s:.2f}" for s in seconds]
    together = _seconds(one)
    return [
        f"{plain(one.run)}@{one.number}",
        str(one.step),
        str(one.evidence.get("workers", "")),
        "restorable" if one.passed else "failed",
        *told,
        "" if together is None else f"{together:.2f} s",
        plain(compared(one)),
    ]


def compared(one: DrillOutcome) -> str:
    """What the step after the restore was compared with, in words."""
    told = []
    if "probe_saved" in one.evidence:
        told.append("probe")
    if "value_recorded" in one.evidence:
        same = one.evidence.get("bit_identical")
        told.append(f"{one.evidence.get('metric')}{', bit-identical' if same else ''}")
    if "changes" in one.evidence:
        told.append(f"other conditions: {one.evidence['changes']}")
    return "; ".join(told) or "nothing"


def _seconds(one: DrillOutcome) -> float | None:
    found = one.evidence.get("seconds")
    return float(found) if isinstance(found, int | float) else None
