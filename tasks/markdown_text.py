"""Words, numbers and tables in Markdown. Text from elsewhere is shown as it is: it can start no markup and no new row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = [
    "DASH",
    "NBSP",
    "bytes_text",
    "code",
    "count",
    "duration",
    "flat_config",
    "moment",
    "plain",
    "real",
    "seconds_between",
    "short_reason",
    "spans",
    "table",
]

DASH = "\N{EN DASH}"
"""Stands where there is no value."""
NBSP = "\N{NO-BREAK SPACE}"

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$^=-])")
_KEY = re.compile(r"\bruns/\S+?/(shard|manifest)s/\d+/([0-9a-f]{8})[0-9a-f]+(?:\.\w+)?")
_DIGEST = re.compile(r"\b((?:xxh3-128|sha256|blake3):[0-9a-f]{8})[0-9a-f]{8,}")
_LONG = re.compile(r"\S{41,}")
_BREAK = "\N{ZERO WIDTH SPACE}"
"""Where a line may break: the pages break no word, and a key would run over what stands beside it."""
_ADDRESS = re.compile(r"((?:\w+://|www\.)\S+)")
_MINUTE = 60
_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s"))
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def _one_line(text: str, limit: int) -> str:
    clean = " ".join(_CONTROL.sub(" ", text).split())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def plain(text: str, limit: int = 200) -> str:
    """`text` on one line, at most `limit` characters of it, with every sign that could mean something disarmed.

    An address becomes code: else the pages would make a link of it, escapes and all.
    """
    pieces = _ADDRESS.split(_one_line(text, limit))
    return "".join(
        code(piece) if index % 2 else _escaped(piece) for index, piece in enumerate(pieces)
    )


def spans(text: str, limit: int = 200) -> str:
    """As `plain`, for a sentence of our own: what stands between two backticks in it becomes code."""
    pieces = _one_line(text, limit).split("`")
    if len(pieces) % 2 == 0:  # the limit cut a closing one off
        return plain(text, limit)
    return "".join(code(piece) if n % 2 else _escaped(piece) for n, piece in enumerate(pieces))


def short_reason(text: str) -> str:
    """A stored reason with only as much of keys and digests as tells them apart; `pawl show` has the whole."""
    return _DIGEST.sub(r"\1…", _KEY.sub(r"\1 \2…", text))


def _escaped(text: str) -> str:
    breakable = _LONG.sub(lambda word: word[0].replace("/", f"/{_BREAK}"), text)
    return _MARKUP.sub(r"\\\1", breakable).translate(_ENTITIES)


def code(text: str, limit: int = 200) -> str:
    """`text` in a code span; inside one no sign but the backtick and, in a table, the bar means anything."""
    clean = _one_line(text, limit).replace("`", "'").replace("|", "\\|")
    return f"`{clean}`" if clean else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> str:
    """A table of cells that are Markdown already; `right` names the columns to align right, by position: `"013"`."""
    rule = ["---:" if str(index) in right else "---" for index in range(len(headers))]
    lines = [headers, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def count(value: int) -> str:
    return f"{value:,}"


def real(value: float | None, digits: int = 3) -> str:
    """So many significant digits; a dash when there is no value."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:g}"
    return f"{value:#.{digits}g}".removesuffix(".")


def bytes_text(value: float) -> str:
    """Three digits and a decimal unit."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            shown = f"{value / size:.3g}" if value < 999.5 * size else f"{value / size:,.0f}"
            return f"{shown}{NBSP}{unit}"
    return f"{value:.0f}{NBSP}B"


def duration(seconds: float | None) -> str:
    """Two units at most; a dash when it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < _MINUTE:
        return f"{seconds:.2g}{NBSP}s"
    whole = round(seconds)
    size, unit, below, small = next(row for row in _UNITS if whole >= row[0])
    rest = whole % size // below
    return f"{whole // size}{NBSP}{unit}" + (f" {rest}{NBSP}{small}" if rest else "")


def _parse(at: str | None) -> datetime | None:
    try:
        return None if at is None else datetime.fromisoformat(at)
    except ValueError:
        return None


def moment(at: str | None) -> str:
    """`24 Nov 03:14:07`, to be read as UTC; a narrow cell breaks it before the time only."""
    parsed = _parse(at)
    return plain(at or DASH, 32) if parsed is None else f"{parsed:%d{NBSP}%b %H:%M:%S}"


def seconds_between(start: str | None, end: str | None) -> float | None:
    """None when either is not known, or when the clocks contradict each other."""
    first, last = _parse(start), _parse(end)
    if first is None or last is None or (first.tzinfo is None) != (last.tzinfo is None):
        return None
    seconds = (last - first).total_seconds()
    return seconds if seconds >= 0 else None


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"optimizer.lr": "0.001"}`: every value as short text, nested names joined by dots, sorted."""
    flat: dict[str, str] = {}
    for name in sorted(config, key=str):
        value = config[name]
        if isinstance(value, Mapping) and value:
            flat.update(flat_config(value, f"{prefix}{name}."))
        else:
            shown = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[f"{prefix}{name}"] = _one_line(shown, 60)
    return flat
