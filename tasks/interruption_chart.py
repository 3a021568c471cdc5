"""Where the time went at every interruption: one bar each, a colour a phase."""

from __future__ import annotations

from collections.abc import Sequence

from ray_workers.explaining import PHASES, Interruption
from tasks.svg import LegendItem, Scale, document, legend, num, safe, ticks

__all__ = ["interruption_chart"]

_LEFT, _RIGHT, _TOP, _ROW = 110.0, 718.0, 58.0, 40.0
_MAX_BARS = 12
_COLOURS = dict(
    zip(
        PHASES,
        ("#8a3b12", "#a8a8a8", "#5f6a72", "#c83e00", "#d58400", "#c9b458", "#3fa7e0", "#0072b2", "#00795a", "#6fb98f", "#a8437f"),
        strict=True,
    )
)  # fmt: skip


def interruption_chart(interruptions: Sequence[Interruption]) -> str | None:
    """The newest interruptions as SVG; None when none has a known cost."""
    shown = [item for item in interruptions if item.total > 0][-_MAX_BARS:]
    if not shown:
        return None
    x = Scale(low=0, high=max(item.total for item in shown), start=_LEFT, end=_RIGHT)
    parts = ['<text x="14" y="25" class="b">seconds lost, by phase</text>']
    bottom = _TOP + _ROW * len(shown)
    for tick in ticks(0, x.high, 5):
        parts.append(f'<path d="M{num(x(tick))} {num(_TOP - 8)}V{num(bottom)}" stroke="#e6e6e6"/>')
        parts.append(
            f'<text class="q m" x="{num(x(tick))}" y="{num(bottom + 24)}">{tick:,.3g}</text>'
        )
    for row, item in enumerate(shown):
        parts += _bar(item, x, _TOP + row * _ROW)
    used = [phase for phase in PHASES if any(item.seconds.get(phase) for item in shown)]
    items = [
        LegendItem(
            symbol=f'<rect x="-9" y="-9" width="18" height="18" fill="{_COLOURS[phase]}"/>',
            label=phase,
        )
        for phase in used
    ]
    foot, end = legend(items, left=14, top=bottom + 58)
    return document(
        (*parts, foot),
        height=end,
        title="Interruptions",
        description=f"{len(shown)} interruptions and the seconds they cost, by phase",
        radius=4,
    )


def _bar(item: Interruption, x: Scale, top: float) -> list[str]:
    middle = num(top + 12)
    label = safe(f"{item.before} → {item.attempt}", 20)
    parts = [f'<text class="e" x="{num(_LEFT - 12)}" y="{middle}" dy=".35em">{label}</text>']
    at = 0.0
    for phase, seconds in item.seconds.items():
        left, right = x(at), x(at + seconds)
        at += seconds
        if right - left > 0:
            parts.append(
                f'<rect x="{num(left)}" y="{num(top)}" width="{num(max(right - left, 0.5))}" height="24" '
                f'fill="{_COLOURS[phase]}"><title>{phase} {seconds:.3g} s</title></rect>'
            )
    return parts
