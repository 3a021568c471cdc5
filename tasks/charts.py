"""The loss over the steps: every attempt in its colour, what was done again, where attempts resumed, every version."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ray_workers.report import RunReport, VersionRow
from tasks.curve_lines import curve_lines, is_dense
from tasks.lineage_path import Lane, lanes, redone_spans, thin_versions
from tasks.loss_series import (
    MAX_SERIES,
    Series,
    loss_of,
    loss_scale,
    series_by_attempt,
    step_scale,
)
from tasks.svg import (
    CHAR,
    QUIET,
    RUNG_MARKS,
    WIDTH,
    LegendItem,
    Scale,
    attempt_colour,
    document,
    legend,
    log_ticks,
    mark,
    num,
    short_count,
    ticks,
)

__all__ = ["loss_chart", "rung_items"]

_LEFT, _RIGHT = 84.0, 718.0
_TOP, _BOTTOM = 78.0, 318.0
_MAX_DOTS = 500
_MAX_POINTS = 700
_BOLD_POINTS = 90
_MANY_ATTEMPTS = 12
_PILL = (
    '<rect x="-9" y="-9" width="18" height="18" rx="5" fill="#fff" '
    f'stroke="{attempt_colour(1)}" stroke-width="2.5"/>'
)


def loss_chart(report: RunReport) -> str | None:
    """The picture as SVG, or None when no finite loss is known yet."""
    series = series_by_attempt(report.curve)
    losses = [loss for points in series.values() for _, loss in points if math.isfinite(loss)]
    losses += [loss for v in report.versions if (loss := loss_of(v)) is not None]
    if not losses:
        return None
    y = loss_scale(losses, _BOTTOM - 8, _TOP)
    chart = _Chart(
        report=report,
        lanes=lanes(report)[-MAX_SERIES:],
        x=step_scale(report, series, _LEFT, _RIGHT),
        y=y,
        dense=any(is_dense(points) for points in series.values()),
        cut=max(losses) > y.high,
        radius=max(2.4, min(6.0, 300 / max(len(report.versions), 1))),
    )
    foot, bottom = legend(chart.legend_items(), left=14, top=_BOTTOM + 82)
    parts = (
        *chart.bands(), *chart.axes(), *chart.curves(series), *chart.resumes(), *chart.dots(), foot
    )  # fmt: skip
    return document(
        parts,
        height=bottom - 6,
        title=f"Loss of {report.run}",
        description=f"{len(report.versions)} versions, {len(report.attempts)} attempts",
        radius=chart.radius,
    )


def rung_items(versions: Iterable[VersionRow]) -> list[LegendItem]:
    """A legend item for every rung that occurs, lowest first."""
    present = {version.rung for version in versions}
    return [LegendItem(symbol=mark(r, 0, 0), label=r) for r in RUNG_MARKS if r in present]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chart:
    report: RunReport
    lanes: tuple[Lane, ...]
    x: Scale
    y: Scale
    radius: float
    dense: bool
    """Some attempt has more points than a plain line can show."""
    cut: bool
    """Some loss lies above the picture."""

    def bands(self) -> Iterator[str]:
        """One path for all spans: there may be as many as attempts."""
        boxes = []
        for low, high in redone_spans(self.lanes):
            left, width = self.x(low), max(self.x(high) - self.x(low), 1.5)
            boxes.append(f"M{num(left)} {num(_TOP)}h{num(width)}V{num(_BOTTOM)}H{num(left)}z")
        if boxes:
            yield f'<path d="{"".join(boxes)}" fill="url(#h)"/>'

    def axes(self) -> Iterator[str]:
        y = self.y
        levels = (log_ticks if y.log else ticks)(y.low, y.high, 5)
        for level in levels:
            at = num(y(level))
            yield f'<path d="M{num(_LEFT)} {at}H{num(_RIGHT)}" stroke="#e6e6e6"/>'
            yield f'<text class="q e" x="{num(_LEFT - 8)}" y="{at}" dy=".35em">{level:.3g}</text>'
        yield f'<path d="M{num(_LEFT)} {num(_BOTTOM)}H{num(_RIGHT)}" stroke="{QUIET}"/>'
        for step in ticks(self.x.low, self.x.high, 6, whole=True):
            at = num(self.x(step))
            yield f'<path d="M{at} {num(_BOTTOM)}v6" stroke="{QUIET}"/>'
            yield f'<text class="q m" x="{at}" y="{num(_BOTTOM + 26)}">{short_count(step)}</text>'
        middle = num((_LEFT + _RIGHT) / 2)
        yield f'<text class="q m" x="{middle}" y="{num(_BOTTOM + 52)}">step</text>'
        yield self._heading()

    def _heading(self) -> str:
        scale = ", logarithmic" if self.y.log else ""
        notes = ["pale: every step, bold: median"] if self.dense else []
        notes += [f"cut off at {self.y.high:.2g}"] if self.cut else []
        note = f"({'; '.join(notes)})" if notes else ""
        return (
            f'<text x="14" y="25"><tspan class="b">loss{scale}</tspan>'
            f'<tspan class="q"> {note}</tspan></text>'
        )

    def curves(self, series: dict[int, Series]) -> Iterator[str]:
        counts_to = {lane.attempt.number: lane.counts_to for lane in self.lanes}
        return curve_lines(
            series, self.x, self.y, counts_to, points=_MAX_POINTS, medians_of=_BOLD_POINTS
        )

    def resumes(self) -> Iterator[str]:
        """A vertical line where an attempt resumed, and above it the attempt's number, as far as there is room."""
        begun = sorted(self.lanes, key=lambda lane: (lane.start, lane.attempt.number))
        places = {num(self.x(lane.start)) for lane in begun if lane.attempt.resumed}
        faint = ' opacity=".35"' if len(places) > _MANY_ATTEMPTS else ""
        path = "".join(f"M{at} {num(_TOP - 6)}V{num(_BOTTOM)}" for at in sorted(places, key=float))
        if path:
            yield f'<path class="d" d="{path}"{faint}/>'
        free = _LEFT - 30.0
        for lane in begun if len(begun) > 1 else ():
            at, width = self.x(lane.start), 18 + len(str(lane.attempt.number)) * CHAR
            left = max(at - width / 2, free)
            if left + width <= WIDTH - 2 and left - at <= width:
                free = left + width + 4
                yield self._pill(lane.attempt.number, left, width)

    def _pill(self, number: int, left: float, width: float) -> str:
        middle = num(left + width / 2)
        return (
            f'<rect x="{num(left)}" y="{num(_TOP - 36)}" width="{num(width)}" height="28" rx="8" '
            f'fill="#fff" stroke="{attempt_colour(number)}" stroke-width="2.5"/>'
            f'<text class="b m" x="{middle}" y="{num(_TOP - 22)}" dy=".35em">{number}</text>'
        )

    def dots(self) -> Iterator[str]:
        """Every version at its step and loss; a quarantined one on a stem, clear of the one that took its place."""
        newest = self.report.newest_sound
        shown = thin_versions(self.report.versions, _MAX_DOTS, newest)
        for version in sorted(shown, key=lambda v: (v.rung == "quarantined", v.number)):
            loss = loss_of(version)
            x, y = self.x(version.step), self.y(self.y.low if loss is None else loss)
            if version is newest:
                yield f'<use href="#o" x="{num(x)}" y="{num(y)}"/>'
            if version.rung == "quarantined":
                yield f'<use href="#t" x="{num(x)}" y="{num(y)}"/>'
            else:
                yield mark(version.rung, x, y)

    def legend_items(self) -> list[LegendItem]:
        items = rung_items(self.report.versions)
        if self.report.newest_sound is not None:
            items.append(LegendItem(symbol='<use href="#o"/>', label="newest sound"))
        if len(self.lanes) > 1:
            items.append(LegendItem(symbol=_PILL, label="attempt"))
        if any(lane.attempt.resumed for lane in self.lanes):
            items.append(LegendItem(symbol='<path class="d" d="M0-11V11"/>', label="resumed"))
        if redone_spans(self.lanes):
            patch = '<rect x="-10" y="-9" width="20" height="18" fill="url(#h)"/>'
            items.append(LegendItem(symbol=patch, label="done again"))
        return items
