"""Plain text for terminals: aligned columns, sizes and times as people read them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import click

from tasks.markdown_text import short_reason

__all__ = [
    "brief",
    "bytes_text",
    "counted",
    "fine_seconds_text",
    "moment",
    "number_text",
    "pairs",
    "printable",
    "rung_text",
    "seconds_text",
    "table",
]

_COLOURS = {
    "committed": "yellow", "verified": "cyan", "sound": "green", "restorable": "green", "quarantined": "red",
}  # fmt: skip
_GAP = "  "
_LINE, _MIN_ROOM = 110, 40
_THOUSAND = 1000
_MINUTE = 60
_TEN_MINUTES = 600


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell.

    Args:
        heads: the column names.
        rows: cells, which may hold colours made by click.
        right: indexes of the columns that are aligned to the right.
    """
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(heads))]

    def cell(text: str, index: int) -> str:
        pad = " " * (widths[index] - _width(text))
        return pad + text if index in right else text + pad

    shown = [_GAP.join(cell(text, i) for i, text in enumerate(line)).rstrip() for line in lines]
    shown[0] = click.style(shown[0], bold=True)
    return "\n".join(shown)


def pairs(items: Mapping[str, str]) -> str:
    """One name and its value a line, long values wrapped under their own beginning; what is empty is left out."""
    shown = {name: value for name, value in items.items() if value}
    width = max(map(len, shown), default=0)
    room = max(_MIN_ROOM, _LINE - width - len(_GAP))
    lines = [
        f"{name if not number else '':<{width}}{_GAP}{line}"
        for name, value in shown.items()
        for number, line in enumerate(_wrapped(value, room))
    ]
    return "\n".join(lines)


def _wrapped(value: str, room: int) -> list[str]:
    """Coloured text is short and is left alone: its width on the screen is not its length."""
    if _width(value) <= room or _width(value) != len(value):
        return [value]
    return textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False)


def printable(value: object, limit: int = 200) -> str:
    """One line without control characters: a stored text cannot move the cursor or colour the terminal."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def brief(text: str, limit: int = 110) -> str:
    """A stored reason for a table; whole, it stands in `pawl show`."""
    return printable(short_reason(text), limit)


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def rung_text(rung: str) -> str:
    return click.style(printable(rung), fg=_COLOURS.get(rung))


def number_text(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else str(value)


def bytes_text(size: float) -> str:
    """Decimal units: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < _THOUSAND:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _THOUSAND
    return f"{size:.1f} TB"


def fine_seconds_text(seconds: float) -> str:
    """For what may take milliseconds: `6.5 ms`, `1.2 s`, `164 s`, `12 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < _TEN_MINUTES else seconds_text(seconds)


def seconds_text(seconds: float | None) -> str:
    """Two units at most: `2 d 3 h`, `4 min`, `5.2 s`; a dash when it is not known."""
    if seconds is None:
        return "-"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, below, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole // _MINUTE} min"


def moment(text: str | None) -> str:
    """An ISO 8601 instant in UTC to the second; anything else as it is."""
    if text is None:
        return "-"
    shown = printable(text, 40)
    return shown[:19].replace("T", " ") if shown[10:11] == "T" else shown


def _width(text: str) -> int:
    return len(click.unstyle(text))
