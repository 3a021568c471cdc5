"""Series as lines of a picture: pale as far as every step can be drawn, bold the median, a colour for each attempt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from tasks.loss_series import Series, medians, thinned
from tasks.svg import Scale, attempt_colour, num

__all__ = ["curve_lines", "is_dense"]

_FEW_POINTS = 40


def is_dense(points: Series) -> bool:
    """Whether there are more points than a plain line can show."""
    return len(points) > _FEW_POINTS


def curve_lines(
    series: Mapping[int, Series],
    x: Scale,
    y: Scale,
    counts_to: Mapping[int, float],
    *,
    points: int,
    medians_of: int,
) -> Iterator[str]:
    """Paths of each attempt's series; the bold one is dotted where the work no longer counts.

    Args:
        series: by attempt.
        x: of the steps.
        y: of the values.
        counts_to: the step up to which an attempt's work lives on; one that is left out counts to its end.
        points: about how many to draw of all attempts together.
        medians_of: about how many medians.
    """
    total = sum(map(len, series.values())) or 1
    for attempt, own in series.items():
        share = len(own) / total
        raw = list(thinned(own, max(4, int(points * share))))
        if not is_dense(own):
            yield _line(raw, x, y, "f", attempt)
            continue
        yield _line(raw, x, y, "f p", attempt)
        bold = list(medians(own, max(6, int(medians_of * share))))
        limit = counts_to.get(attempt, math.inf)
        kept = [point for point in bold if point[0] <= limit]
        yield _line(kept, x, y, "f k", attempt)
        if len(kept) < len(bold):
            yield _line(bold[max(len(kept) - 1, 0) :], x, y, "f k g", attempt)


def _line(points: Sequence[tuple[int, float]], x: Scale, y: Scale, style: str, attempt: int) -> str:
    path, pen = [], "M"
    for step, value in points:
        if not math.isfinite(value):
            pen = "M"
            continue
        path.append(f"{pen}{num(x(step))} {num(y(value))}")
        pen = "L"
    if not path:
        return ""
    return f'<path class="{style}" stroke="{attempt_colour(attempt)}" d="{"".join(path)}"/>'
