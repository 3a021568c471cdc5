"""Plain text for terminals: aligned columns, sizes and times as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import click

__all__ = [
    "bytes_text",
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
_THOUSAND = 1000
_MINUTE = 60


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
    """One name and its value a line; what is empty is left out."""
    shown = {name: value for name, value in items.items() if value}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name:<{width}}{_GAP}{value}" for name, value in shown.items())


def printable(value: object, limit: int = 200) -> str:
    """One line without control characters: a stored text cannot move the cursor or colour the terminal."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


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
