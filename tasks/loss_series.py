"""The numbers behind the charts of the loss and of other metrics: one series an attempt, thinned and smoothed, and the two axes that fit them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from ray_workers.report import RunReport, VersionRow
from tasks.svg import Scale

__all__ = [
    "MAX_SERIES",
    "Series",
    "loss_of",
    "loss_scale",
    "medians",
    "series_by_attempt",
    "step_scale",
    "thinned",
]

MAX_SERIES = 120
_LOG_FROM = 100.0
"""Times that the bulk of the losses must span before the axis turns logarithmic."""

Series = list[tuple[int, float]]
"""`(step, loss)`"""


def loss_of(version: VersionRow) -> float | None:
    """The version's own loss, if it is a finite number."""
    loss = version.metrics.get("loss", math.nan)
    return loss if math.isfinite(loss) else None


def series_by_attempt(
    points: Sequence[tuple[int, float, int]], most: int = MAX_SERIES
) -> dict[int, Series]:
    """The series of each attempt, by step; the oldest of more than `most` attempts are taken together."""
    newest = max((attempt for _, _, attempt in points), default=0)
    found: dict[int, Series] = {}
    for step, value, attempt in points:
        found.setdefault(max(attempt, newest - most + 1), []).append((step, value))
    return {attempt: sorted(found[attempt]) for attempt in sorted(found)}


def step_scale(report: RunReport, series: Mapping[int, Series], left: float, right: float) -> Scale:
    """From nought, or from the first step of a run that began late, to the newest one."""
    steps = [step for points in series.values() for step, _ in points]
    steps += [version.step for version in report.versions] + [report.progress.step]
    low = min(steps)
    low = 0 if low < 0.2 * max(steps) else low
    return Scale(low=low, high=max(*steps, low + 1), start=left, end=right)


def loss_scale(losses: Sequence[float], bottom: float, top: float) -> Scale:
    """Logarithmic when the bulk spans two decades; a lone peak is cut off rather than pressing all else flat."""
    ranked = sorted(losses)
    low, usual, high = ranked[0], ranked[int(0.98 * (len(ranked) - 1))], ranked[-1]
    middle = ranked[int(0.05 * (len(ranked) - 1))]
    if middle > 0 and usual / middle > _LOG_FROM:
        floor = max(low, middle / 10) if low > 0 else middle
        return Scale(low=floor, high=high, start=bottom, end=top, log=True)
    if high - low > 8 * (usual - low) > 0:
        high = low + 1.6 * (usual - low)
    low = 0.0 if 0 <= low < 0.5 * high else low - 0.05 * (high - low)
    pad = 0.04 * (high - low) or 0.5
    return Scale(low=low, high=high + pad, start=bottom, end=top)


def thinned(points: Series, limit: int) -> Iterator[tuple[int, float]]:
    """Lowest and highest of every bucket, so that peaks survive; a value that is not finite survives too."""
    size = max(1, math.ceil(2 * len(points) / limit))
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        broken = [point for point in bucket if not math.isfinite(point[1])]
        whole = [point for point in bucket if math.isfinite(point[1])]
        ends = {min(whole, key=_loss), max(whole, key=_loss)} if whole else set()
        yield from sorted(ends)
        yield from broken[:1]


def _loss(point: tuple[int, float]) -> float:
    return point[1]


def medians(points: Series, limit: int) -> Iterator[tuple[int, float]]:
    """One point for each of about `limit` stretches; NaN for a stretch that is mostly not finite."""
    size = max(1, math.ceil(len(points) / limit))
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        whole = [loss for _, loss in bucket if math.isfinite(loss)]
        middle = statistics.median(whole) if 2 * len(whole) > len(bucket) else math.nan
        yield bucket[len(bucket) // 2][0], middle
