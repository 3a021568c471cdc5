"""What a report implies about its lineage: where attempts began, how far they came, what still counts, what was redone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ray_workers.report import AttemptRow, RunReport, VersionRow

__all__ = ["Lane", "lanes", "redone_spans", "thin_versions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One attempt as the pictures see it."""

    attempt: AttemptRow
    versions: tuple[VersionRow, ...]
    start: int
    """The step that it started from."""
    reached: int
    """The highest step that it is known to have done, `start` if none."""
    counts_to: float
    """Up to this step its work lives on in the newest state; below `start` when none of it does."""
    parent: VersionRow | None
    """The version of this run that it resumed from."""

    @property
    def origin(self) -> str | None:
        """The version of another run that it resumed from."""
        name = self.attempt.resumed_from
        return name if name is not None and "@" in name else None


def lanes(report: RunReport) -> tuple[Lane, ...]:
    """One lane for every attempt, in order."""
    by_name = {str(version.number): version for version in report.versions}
    committed: dict[int, list[VersionRow]] = {}
    for version in report.versions:
        committed.setdefault(version.attempt, []).append(version)
    seen: dict[int, int] = {}
    for step, _, number in report.curve:
        seen[number] = max(step, seen.get(number, step))
    counts = _counting(report, by_name, {*committed, *seen})

    def lane(attempt: AttemptRow) -> Lane:
        mine = tuple(committed.get(attempt.number, ()))
        parent = by_name.get(attempt.resumed_from or "")
        start = parent.step if parent is not None else attempt.resume_step or 0
        steps = [start, seen.get(attempt.number, start), *(version.step for version in mine)]
        return Lane(
            attempt=attempt,
            versions=mine,
            start=start,
            reached=max(steps),
            counts_to=counts.get(attempt.number, -1),
            parent=parent,
        )

    return tuple(lane(attempt) for attempt in report.attempts)


def _counting(
    report: RunReport, by_name: dict[str, VersionRow], busy: set[int]
) -> dict[int, float]:
    """Walk back from the newest attempt that did or resumed something; each one below counts up to its resumed version."""
    attempts = {attempt.number: attempt for attempt in report.attempts}
    newest = [n for n in sorted(attempts) if n in busy or attempts[n].resumed_from is not None]
    counts: dict[int, float] = {}
    number, limit = (newest or [0])[-1], math.inf
    while number in attempts and number not in counts:
        counts[number] = limit
        parent = by_name.get(attempts[number].resumed_from or "")
        if parent is None:
            break
        number, limit = parent.attempt, parent.step
    return counts


def redone_spans(all_lanes: Sequence[Lane]) -> tuple[tuple[int, int], ...]:
    """Steps that were done more than once, as `(from, to)`, merged and in order."""
    spans: list[tuple[int, int]] = []
    reached = 0
    for lane in all_lanes:
        lost = lane.attempt.steps_lost
        end = reached if lost is None else lane.start + lost
        if end > lane.start:
            spans.append((lane.start, end))
        reached = max(reached, lane.reached)
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def thin_versions(
    versions: Sequence[VersionRow], limit: int, keep: VersionRow | None
) -> tuple[VersionRow, ...]:
    """At most about `limit` versions, evenly picked; the newest, `keep`, and quarantined ones stay as far as they fit."""
    if len(versions) <= limit:
        return tuple(versions)
    bad = [v.number for v in versions if v.rung == "quarantined"][-(limit // 4) :]
    wanted = {*bad, versions[-1].number, *([] if keep is None else [keep.number])}
    every = math.ceil(len(versions) / (limit - len(wanted)))
    return tuple(v for i, v in enumerate(versions) if i % every == 0 or v.number in wanted)
