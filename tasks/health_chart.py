"""Two pictures of health: work at risk against the objective, and what each run stores."""

from __future__ import annotations

from ray_workers.health_facts import HealthReport
from ray_workers.storage_accounts import Storage
from tasks.markdown_text import bytes_text, duration
from tasks.svg import INK, QUIET, Scale, document, num, safe

__all__ = ["risk_chart", "storage_chart"]

_LEFT, _RIGHT, _TOP, _ROW = 210.0, 640.0, 48.0, 40.0
_MAX_BARS = 12
_GOOD, _BAD, _NEUTRAL = "#00795a", "#c83e00", "#0072b2"


def risk_chart(report: HealthReport) -> str | None:
    """A bar for every running run, the one with the most work at risk first; None when nothing runs."""
    limit = report.objective.at_risk_s
    running = [(run.run, run.at_risk.seconds) for run in report.runs if run.at_risk is not None]
    if not running:
        return None
    ranked = sorted(running, key=lambda item: -item[1])[:_MAX_BARS]
    x = Scale(low=0, high=max(1.25 * limit, ranked[0][1], 1e-9), start=_LEFT, end=_RIGHT)
    bars = [
        _bar(index, name, x(seconds), duration(seconds), _BAD if seconds > limit else _GOOD)
        for index, (name, seconds) in enumerate(ranked)
    ]
    floor = _TOP + _ROW * len(ranked)
    line = (
        f'<path class="d" d="M{num(x(limit))} {num(_TOP - 8)}V{num(floor)}"/>'
        f'<text class="q m" x="{num(x(limit))}" y="{num(floor + 24)}">objective {safe(duration(limit))}</text>'
    )
    return _picture("work at risk", (*bars, line), floor + 40)


def storage_chart(storage: Storage) -> str | None:
    """A bar for each of the largest runs."""
    ranked = sorted(storage.by_run.items(), key=lambda item: -item[1])[:_MAX_BARS]
    if not ranked or ranked[0][1] <= 0:
        return None
    x = Scale(low=0, high=ranked[0][1], start=_LEFT, end=_RIGHT)
    bars = [
        _bar(index, name, x(size), bytes_text(size), _NEUTRAL)
        for index, (name, size) in enumerate(ranked)
    ]
    return _picture("bytes kept", tuple(bars), _TOP + _ROW * len(ranked) + 14)


def _bar(index: int, name: str, end: float, label: str, colour: str) -> str:
    y = _TOP + _ROW * index
    width = max(end - _LEFT, 1.5)
    return (
        f'<text x="14" y="{num(y + 14)}" dy=".35em">{safe(name, 18)}</text>'
        f'<rect x="{num(_LEFT)}" y="{num(y)}" width="{num(width)}" height="28" fill="{colour}"/>'
        f'<text class="q" x="{num(_LEFT + width + 8)}" y="{num(y + 14)}" dy=".35em">{safe(label)}</text>'
    )


def _picture(title: str, parts: tuple[str, ...], height: float) -> str:
    axis = f'<path d="M{num(_LEFT)} {num(_TOP - 8)}V{num(height - 14)}" stroke="{QUIET}"/>'
    head = f'<text class="b" x="14" y="25" fill="{INK}">{safe(title)}</text>'
    return document((head, *parts, axis), height=height, title=title, description=title, radius=4)
