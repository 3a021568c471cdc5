"""When which step was done, as far as a run's log and manifests tell; for loss curves over wall-clock. Pure."""

from __future__ import annotations

import itertools
import math
from datetime import datetime

from ray_workers.report import AttemptRow, RunReport

__all__ = ["StepClock"]

_BEFORE_TRAINING = ("start_s", "restore_s")
_HOUR = 3600.0


class StepClock:
    """When each attempt did which step: known when its start-up was over and at its commits, a straight line in between."""

    def __init__(self, report: RunReport) -> None:
        self._steps = {str(v.number): v.step for v in report.versions}
        self._anchors: dict[int, list[tuple[int, float]]] = {}
        starts = [at for a in report.attempts if (at := _instant(a.started_at)) is not None]
        self._zero = min(starts, default=0.0)
        for version in report.versions:
            self._add(version.attempt, version.step, version.committed_at)
        for attempt in report.attempts:
            # One whose checkpoint actor was started again was training already.
            self._start(attempt, 0.0 if attempt.restarted else _startup_s(report, attempt.number))

    def start_step(self, attempt: AttemptRow) -> int:
        return self._steps.get(attempt.resumed_from or "", attempt.resume_step or 0)

    def hours(self, step: int, attempt: int) -> float | None:
        anchors = self._anchors.get(attempt, [])
        for (low, begin), (high, end) in itertools.pairwise(anchors):
            if low <= step <= high and high > low:
                return (begin + (step - low) / (high - low) * (end - begin)) / _HOUR
        return next((at / _HOUR for known, at in anchors if known == step), None)

    def _start(self, attempt: AttemptRow, startup_s: float) -> None:
        """Training begins when Ray and its workers are there; hosts' clocks may differ, so not after the first commit."""
        at = _instant(attempt.started_at)
        if at is not None:
            own = self._anchors.setdefault(attempt.number, [])
            first = min((seconds for _, seconds in own), default=math.inf)
            own.append((self.start_step(attempt), min(at - self._zero + startup_s, first)))
            own.sort()

    def _add(self, attempt: int, step: int, text: str) -> None:
        at = _instant(text)
        if at is not None:
            self._anchors.setdefault(attempt, []).append((step, at - self._zero))
            self._anchors[attempt].sort()


def _startup_s(report: RunReport, attempt: int) -> float:
    """Seconds from an attempt's start to the beginning of its first step, as its first version tells."""
    told = next((v.startup for v in report.versions if v.attempt == attempt), {})
    return sum(told.get(phase, 0.0) for phase in _BEFORE_TRAINING)


def _instant(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
