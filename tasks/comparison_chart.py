"""Loss curves of several versions in one picture, over steps or wall-clock; and how far their layers lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ray_workers.comparison import Compared, LayerDistance
from tasks.loss_series import loss_scale, medians
from tasks.svg import (
    QUIET,
    LegendItem,
    Scale,
    attempt_colour,
    document,
    legend,
    log_ticks,
    num,
    safe,
    short_count,
    ticks,
)

__all__ = ["curve_chart", "layer_chart"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 718.0, 56.0, 318.0
_POINTS = 240
_MAX_LAYERS = 24
_ROW = 34.0

_UNITS = ((1.0, 1.0, "hours"), (1 / 60, 60.0, "minutes"), (0.0, 3600.0, "seconds"))
"""From so many hours on, how many of it make an hour, and its name."""

_Line = list[tuple[float, float]]


def curve_chart(versions: Sequence[Compared], *, over: str) -> str | None:
    """The picture, or None when nothing finite is known. `over` is `step` or `hours`."""
    unit = _unit(versions) if over == "hours" else (1.0, "step")
    lines = [[(unit[0] * x, y) for x, y in _line(version, over)] for version in versions]
    losses = [y for line in lines for _, y in line if math.isfinite(y)]
    if not losses:
        return None
    high = max(x for line in lines for x, _ in line)
    x = Scale(low=0, high=high or 1, start=_LEFT, end=_RIGHT)
    y = loss_scale(losses, _BOTTOM - 8, _TOP)
    parts: list[str] = [*_axes(x, y, unit[1])]
    for index, (version, line) in enumerate(zip(versions, lines, strict=True), start=1):
        colour = attempt_colour(index)
        parts.append(_path(line, x, y, colour))
        parts += _resume_marks(version, over, unit[0], x, colour)
    parts += _ends(lines, x, y)
    items = [
        LegendItem(
            symbol=f'<path d="M-11 0H11" stroke="{attempt_colour(i)}" stroke-width="3"/>',
            label=version.reference,
        )
        for i, version in enumerate(versions, start=1)
    ]
    if any(version.resumes for version in versions):
        items.append(LegendItem(symbol='<path class="d" d="M0-11V11"/>', label="resumed"))
    foot, bottom = legend(items, left=14, top=_BOTTOM + 82)
    title = f"loss over {'steps' if over == 'step' else unit[1]}"
    head = f'<text class="b" x="14" y="25">{title}{", logarithmic" if y.log else ""}</text>'
    return document(
        (head, *parts, foot), height=bottom - 6, title=title, description=title, radius=4
    )


def _unit(versions: Sequence[Compared]) -> tuple[float, str]:
    """The unit of time in which the longest run is a number that people read: how many make an hour, and its name."""
    longest = max((p.hours for v in versions for p in v.curve if p.hours is not None), default=1.0)
    return next((per_hour, name) for least, per_hour, name in _UNITS if longest >= least)


def _ends(lines: Sequence[_Line], x: Scale, y: Scale) -> Iterator[str]:
    """A dot where each version is, above all lines: two versions of one run share their line."""
    for index, line in enumerate(lines, start=1):
        finite = [point for point in line if math.isfinite(point[1])]
        if finite:
            at, loss = finite[-1]
            yield (
                f'<circle cx="{num(x(at))}" cy="{num(y(loss))}" r="6" fill="{attempt_colour(index)}" '
                'stroke="#fff" stroke-width="2"/>'
            )


def _line(version: Compared, over: str) -> _Line:
    if over == "step":
        whole = sorted((p.step, p.loss) for p in version.curve)
        return [(float(step), loss) for step, loss in medians(whole, _POINTS)]
    timed = [(p.hours, p.loss) for p in version.curve if p.hours is not None]
    every = max(1, len(timed) // _POINTS)
    return sorted(timed)[::every]


def _path(line: _Line, x: Scale, y: Scale, colour: str) -> str:
    path, pen = [], "M"
    for at, loss in line:
        if not math.isfinite(loss):
            pen = "M"
            continue
        path.append(f"{pen}{num(x(at))} {num(y(loss))}")
        pen = "L"
    return f'<path class="f k" stroke="{colour}" d="{"".join(path)}"/>' if path else ""


def _resume_marks(
    version: Compared, over: str, per_hour: float, x: Scale, colour: str
) -> Iterator[str]:
    for step, hours in version.resumes:
        at = float(step) if over == "step" else hours
        if at is not None:
            place = num(x(at * per_hour))
            yield (
                f'<path d="M{place} {num(_TOP)}V{num(_BOTTOM)}" stroke="{colour}" '
                'stroke-dasharray="5 4" opacity=".6"/>'
            )


def _axes(x: Scale, y: Scale, unit: str) -> Iterator[str]:
    for level in (log_ticks if y.log else ticks)(y.low, y.high, 5):
        at = num(y(level))
        yield f'<path d="M{num(_LEFT)} {at}H{num(_RIGHT)}" stroke="#e6e6e6"/>'
        yield f'<text class="q e" x="{num(_LEFT - 8)}" y="{at}" dy=".35em">{level:.3g}</text>'
    yield f'<path d="M{num(_LEFT)} {num(_BOTTOM)}H{num(_RIGHT)}" stroke="{QUIET}"/>'
    for place in ticks(x.low, x.high, 6, whole=unit == "step"):
        at = num(x(place))
        shown = short_count(place) if unit == "step" else f"{place:.3g}"
        yield f'<text class="q m" x="{at}" y="{num(_BOTTOM + 26)}">{shown}</text>'
    told = "step" if unit == "step" else f"{unit} since the run began"
    yield f'<text class="q m" x="{num((_LEFT + _RIGHT) / 2)}" y="{num(_BOTTOM + 52)}">{told}</text>'


def layer_chart(reference: str, distances: Sequence[LayerDistance]) -> str | None:
    """A bar a layer: the distance as a share of the layer's norm; of many layers those that moved most.

    A layer that is not finite comes first, with the longest bar. None when no layer moved.
    """
    ranked = sorted(distances, key=lambda d: -d.weight)[:_MAX_LAYERS]
    if not any(d.weight > 0 for d in ranked):
        return None
    longest = max((d.weight for d in ranked if math.isfinite(d.weight)), default=0.0) or 1.0
    x = Scale(low=0, high=longest, start=300, end=650)
    parts = [f'<text class="b" x="14" y="25">distance of {safe(reference, 40)}, by layer</text>']
    for row, layer in enumerate(ranked):
        at = 48 + _ROW * row
        end = x(min(layer.weight, longest))
        parts.append(
            f'<text x="14" y="{num(at + 11)}" dy=".35em">{safe(layer.name, 26)}</text>'
            f'<rect x="300" y="{num(at)}" width="{num(max(end - 300, 1.5))}" height="22" fill="{attempt_colour(1)}"/>'
            f'<text class="q" x="{num(end + 8)}" y="{num(at + 11)}" dy=".35em">{layer.relative:.2%}</text>'
        )
    height = 48 + _ROW * len(ranked) + 10
    return document(
        parts, height=height, title="Distance by layer", description=reference, radius=4
    )
