"""The metrics besides the loss, one small panel each over the same steps as the loss chart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_workers.report import RunReport
from tasks.curve_lines import curve_lines, is_dense
from tasks.lineage_path import Lane, lanes
from tasks.loss_series import Series, loss_scale, series_by_attempt, step_scale
from tasks.svg import (
    QUIET,
    Scale,
    attempt_colour,
    document,
    log_ticks,
    num,
    safe,
    short_count,
    ticks,
)

__all__ = ["MAX_PANELS", "metrics_chart", "metrics_to_draw"]

MAX_PANELS = 4
_LEFT, _RIGHT = 84.0, 718.0
_HEAD, _BOX, _PANEL = 40.0, 96.0, 156.0
_MAX_POINTS, _BOLD_POINTS, _MAX_ATTEMPTS = 100, 40, 12


def metrics_to_draw(report: RunReport) -> list[str]:
    """Names of all metrics but `loss` that have a finite value: losses under other names first."""
    known = [
        name
        for name, points in report.series.items()
        if any(math.isfinite(value) for _, value, _ in points)
    ]
    return sorted(known, key=lambda name: ("loss" not in name.lower(), name))


def metrics_chart(report: RunReport) -> str | None:
    """The picture of the first `MAX_PANELS` metrics as SVG, or None when there is none."""
    names = metrics_to_draw(report)[:MAX_PANELS]
    if not names:
        return None
    every_lane = lanes(report)
    panels = [
        _panel(report, name, every_lane[-_MAX_ATTEMPTS:], _PANEL * at)
        for at, name in enumerate(names)
    ]
    bottom = _PANEL * (len(panels) - 1) + _HEAD + _BOX
    parts = (*(part for panel in panels for part in panel.parts()), *_steps(panels[0].x, bottom))
    return document(
        parts,
        height=bottom + 62,
        title=f"Metrics of {report.run}",
        description=", ".join(names),
        radius=4,
    )


def _panel(report: RunReport, name: str, shown: tuple[Lane, ...], top: float) -> _Panel:
    points = report.series[name]
    values = [value for _, value, _ in points if math.isfinite(value)]
    series = series_by_attempt(points, _MAX_ATTEMPTS)
    return _Panel(
        name=name,
        series=series,
        lanes=shown,
        x=step_scale(report, series, _LEFT, _RIGHT),
        y=loss_scale(values, top + _HEAD + _BOX, top + _HEAD),
        top=top,
        cut_above=max(values),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    name: str
    series: Mapping[int, Series]
    lanes: tuple[Lane, ...]
    x: Scale
    y: Scale
    top: float
    cut_above: float
    """The highest value."""

    def parts(self) -> Iterator[str]:
        yield from self._frame()
        counts_to = {lane.attempt.number: lane.counts_to for lane in self.lanes}
        yield from curve_lines(
            self.series, self.x, self.y, counts_to, points=_MAX_POINTS, medians_of=_BOLD_POINTS
        )
        yield from self._dots()

    def _frame(self) -> Iterator[str]:
        y, floor = self.y, self.top + _HEAD + _BOX
        scale = ", logarithmic" if y.log else ""
        cut = f" (cut off at {y.high:.2g})" if self.cut_above > y.high else ""
        yield (
            f'<text x="14" y="{num(self.top + 25)}"><tspan class="b">{safe(self.name, 40)}</tspan>'
            f'<tspan class="q">{scale}{cut}</tspan></text>'
        )
        for level in (log_ticks if y.log else ticks)(y.low, y.high, 3):
            at = num(y(level))
            yield f'<path d="M{num(_LEFT)} {at}H{num(_RIGHT)}" stroke="#e6e6e6"/>'
            yield f'<text class="q e" x="{num(_LEFT - 8)}" y="{at}" dy=".35em">{level:.3g}</text>'
        yield f'<path d="M{num(_LEFT)} {num(floor)}H{num(_RIGHT)}" stroke="{QUIET}"/>'
        resumed = {num(self.x(lane.start)) for lane in self.lanes if lane.attempt.resumed}
        path = "".join(f"M{at} {num(floor - _BOX)}v{num(_BOX)}" for at in sorted(resumed))
        if path:
            yield f'<path class="d" d="{path}"/>'

    def _dots(self) -> Iterator[str]:
        """Few values stand apart, as those told once a version do, and would hardly be seen as a line."""
        if is_dense([point for points in self.series.values() for point in points]):
            return
        for attempt, points in self.series.items():
            places = [(step, value) for step, value in points if math.isfinite(value)]
            if places:
                path = "".join(f"M{num(self.x(s))} {num(self.y(v))}h0" for s, v in places)
                colour = attempt_colour(attempt)
                yield f'<path class="f" style="stroke-width:5" stroke="{colour}" d="{path}"/>'


def _steps(x: Scale, bottom: float) -> Iterator[str]:
    for step in ticks(x.low, x.high, 6, whole=True):
        at = num(x(step))
        yield f'<path d="M{at} {num(bottom)}v6" stroke="{QUIET}"/>'
        yield f'<text class="q m" x="{at}" y="{num(bottom + 26)}">{short_count(step)}</text>'
    middle = num((_LEFT + _RIGHT) / 2)
    yield f'<text class="q m" x="{middle}" y="{num(bottom + 52)}">step</text>'
