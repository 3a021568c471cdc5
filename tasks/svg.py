"""Hand-written SVG: text made safe, numbers, scales, ticks, and the marks and colours that all pictures share.

A picture is shown as an image, so it brings everything along: white ground, style, symbols. It is drawn 760 units wide.
Every place is laid out for the large type that a narrow screen gets, so that nothing collides after the switch.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "CHAR",
    "INK",
    "QUIET",
    "RUNG_MARKS",
    "WIDTH",
    "LegendItem",
    "Scale",
    "attempt_colour",
    "data_uri",
    "document",
    "legend",
    "log_ticks",
    "mark",
    "num",
    "safe",
    "short_count",
    "ticks",
]

WIDTH = 760
CHAR = 13.2
"""Width of one character of the large type, a little more than the average letter takes; of the small one, below."""
_SMALL_CHAR = 9.7
INK = "#262626"
QUIET = "#6b6b6b"

# From the palette of Okabe and Ito, darkened a little for white; neighbours differ in lightness too.
_ATTEMPT_COLOURS = ("#0072b2", "#d58400", "#3fa7e0", "#a8437f", "#5a5a5a")
_BAD = "#c83e00"
_GOOD = "#00795a"

RUNG_MARKS = {
    "committed": "c",
    "verified": "v",
    "sound": "s",
    "restorable": "r",
    "quarantined": "q",
}

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = (
    f"text{{font:16px Helvetica,Arial,sans-serif;fill:{INK}}}"
    f".b{{font-weight:700}}.q{{fill:{QUIET};font-weight:400}}.m{{text-anchor:middle}}.e{{text-anchor:end}}"
    ".n{display:none}"
    f".d{{stroke:{INK};stroke-dasharray:5 4;stroke-width:1.3}}"
    ".f{fill:none;stroke-width:1.4;stroke-linejoin:round;stroke-linecap:round}"
    ".p{opacity:.33}.k{stroke-width:3}.g{stroke-dasharray:2 5}"
    "@media(min-width:800px){text{font-size:14px}}"
    "@media(max-width:520px){text{font-size:22px}.w{display:none}.n{display:inline}}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps `low..high` to `start..end`, by the logarithm if asked; values outside are cut to the edges."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        if high <= low:
            return (self.start + self.end) / 2
        return self.start + (at - low) / (high - low) * (self.end - self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendItem:
    symbol: str
    """SVG drawn around the origin, within 11 units."""
    label: str


def attempt_colour(number: int) -> str:
    return _ATTEMPT_COLOURS[(number - 1) % len(_ATTEMPT_COLOURS)]


def safe(text: str, limit: int = 80) -> str:
    """`text` as XML character data: cut to `limit`, illegal characters dropped, the rest escaped."""
    clean = " ".join(_NOT_XML.sub("", text).split())
    if len(clean) > limit:
        clean = clean[: limit - 1] + "…"
    return html.escape(clean)


def num(value: float) -> str:
    """A coordinate: one decimal at most."""
    text = f"{value:.1f}"
    return text.removesuffix(".0")


def short_count(value: float) -> str:
    """`1,200`, `12k`, `1.5M`: short enough for an axis."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:,.0f}"


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About `count` round values within `low..high`; `whole` keeps them integers."""
    rough = (high - low) / max(count, 1)
    if rough <= 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    size = max(size, 1.0) if whole else size
    first = math.ceil(low / size - 1e-9)
    return [i * size for i in range(first, math.floor(high / size + 1e-9) + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """At most `count` round values within `low..high`, evenly spread over the decades."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in exponents for m in multiples if low <= m * 10.0**e <= high]
        if len(found) <= count:
            break
    else:
        found = found[:: math.ceil(len(found) / count)]
    return found


def mark(rung: str, x: float, y: float) -> str:
    """A version's dot: shape and colour both say the rung."""
    return f'<use href="#{RUNG_MARKS.get(rung, "c")}" x="{num(x)}" y="{num(y)}"/>'


def _symbols(radius: float) -> str:
    """Definitions of the marks (`t`: the quarantined one on a stem), the ring around the newest sound version, and the hatching."""
    r, ring, dot, arm = (num(radius * k) for k in (1, 1.7, 0.4, 0.75))
    thin = num(max(1.2, radius * 0.32))
    circle = f'<circle r="{r}" fill="#fff" stroke-width="{thin}" stroke='
    cross = f"M-{arm}-{arm}L{arm} {arm}M-{arm} {arm}L{arm}-{arm}"
    good = f'<circle r="{r}" fill="{_GOOD}" stroke="#fff"/>'
    return (
        f'<g id="c">{circle}"{QUIET}"/></g>'
        f'<g id="v">{circle}"{_GOOD}"/><circle r="{dot}" fill="{_GOOD}"/></g>'
        f'<g id="s">{good}</g>'
        f'<g id="r">{good}<circle r="{dot}" fill="#fff"/></g>'
        f'<g id="q"><circle r="{ring}" fill="#fff" fill-opacity=".8"/>'
        f'<path d="{cross}" stroke="{_BAD}" stroke-width="{num(max(2, radius * 0.5))}" '
        f'stroke-linecap="round"/></g>'
        f'<g id="t"><path d="M0 0v-22" stroke="{_BAD}" stroke-width="1.3"/>'
        '<use href="#q" y="-24"/></g>'
        f'<circle id="o" r="{num(radius + 4.5)}" fill="none" stroke="{INK}" stroke-width="2"/>'
        '<pattern id="h" width="7" height="7" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="7" height="7" fill="#f4f0e6"/>'
        '<rect width="2" height="7" fill="#e2d9c2"/></pattern>'
    )


def legend(items: Sequence[LegendItem], *, left: float, top: float) -> tuple[str, float]:
    """The items in rows, and the y below them; laid out twice, for each size of type."""
    wide, wide_end = _legend(items, left, top, _SMALL_CHAR)
    narrow, narrow_end = _legend(items, left, top, CHAR)
    return f'<g class="w">{wide}</g><g class="n">{narrow}</g>', max(wide_end, narrow_end)


def _legend(items: Sequence[LegendItem], left: float, top: float, char: float) -> tuple[str, float]:
    parts: list[str] = []
    x, y = left, top
    for item in items:
        width = 48 + len(item.label) * char
        if x > left and x + width > WIDTH + 10:
            x, y = left, y + 30
        parts.append(
            f'<g transform="translate({num(x + 11)} {num(y)})">{item.symbol}'
            f'<text x="19" y=".35em">{safe(item.label)}</text></g>'
        )
        x += width
    return "".join(parts), y + 30


def document(
    parts: Iterable[str], *, height: float, title: str, description: str, radius: float
) -> str:
    """The whole picture; `radius` is that of a version's dot."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{num(height)}" '
        f'viewBox="0 0 {WIDTH} {num(height)}" role="img">'
        f"<title>{safe(title)}</title><desc>{safe(description, 400)}</desc>"
        f"<style>{_STYLE}</style><defs>{_symbols(radius)}</defs>"
        f'<rect width="{WIDTH}" height="{num(height)}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def data_uri(svg: str) -> str:
    """What both of Prefect's pages draw inside `![…](…)`."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
