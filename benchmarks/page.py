"""The results as a table for the terminal, and as `docs/performance.md` with a plot."""

from __future__ import annotations

import html
import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.contest import Round
from benchmarks.figures import FIGURES, Samples
from benchmarks.ratios import Bar, Ratio, summarise

__all__ = ["Rows", "figure_rows", "plot", "replace_block", "rival_rows", "table"]

Rows = list[list[str]]

_PACKAGES = ("torch", "ray", "obstore", "safetensors")


_OURS = "Pawl ("
_LOWER = {
    "torch DCP async_save": Bar(at_least=1 / 3, aim=1 / 20),
    "Ray Train ASYNC": Bar(at_least=1 / 20, aim=1 / 100),
}
"""How long a save of ours may keep training, beside a rival's of the same round, by the begin of its name."""


def figure_rows(results: Mapping[str, Samples], contests: Mapping[str, list[Round]]) -> Rows:
    """Every figure with its bar, and how our stall compares with that of the rivals that have a bar."""
    rows = [["figure", "of", "median", "95 % interval", "pairs", "bar", "aim", "verdict"]]
    for key, figure in FIGURES.items():
        for target, samples in results.items():
            if samples.pairs.get(key):
                rows.append(_figure_row(figure.name, target, samples.pairs[key], figure.bar))
    for name, rounds in contests.items():
        bar = next((bar for begin, bar in _LOWER.items() if name.startswith(begin)), None)
        who, _, where = name.partition(" (")
        ours = contests.get(f"{_OURS}{where}")
        if bar is not None and ours is not None:
            pairs = [(a.stood, b.stood) for a, b in zip(ours, rounds, strict=True)]
            rows.append(
                _figure_row(f"stall of a save ÷ that of {who}", where.rstrip(")"), pairs, bar)
            )
    return rows


def _figure_row(name: str, of: str, pairs: list[tuple[float, float]], bar: Bar) -> list[str]:
    ratio = summarise(pairs)
    sign = "≥" if bar.larger_is_better else "≤"
    bars = [f"{sign} {bar.at_least:.3g}", f"{sign} {bar.aim:.3g}"]
    return [name, of, *_spelt(ratio), *bars, bar.verdict(ratio)]


def rival_rows(contests: Mapping[str, list[Round]]) -> tuple[Rows, dict[str, float]]:
    """Stalls, and what saves add to training, over a memcpy; and the medians of the stalls for the plot."""
    rows = [
        ["who", "stall ÷ memcpy", "95 % interval", "added to training ÷ memcpy", "95 % interval", "pairs"]
    ]  # fmt: skip
    medians = {}
    for name, rounds in contests.items():
        stall = summarise([(taken.stood, taken.memcpy) for taken in rounds])
        added = [(taken.added, taken.memcpy) for taken in rounds if taken.added is not None]
        cells = _spelt(summarise(added))[:2] if added else ["not measured", ""]
        rows.append([name, *_spelt(stall)[:2], *cells, str(stall.pairs)])
        medians[name] = stall.median
    return rows, medians


def _spelt(ratio: Ratio) -> list[str]:
    return [f"{ratio.median:.3g}", f"{ratio.low:.3g} to {ratio.high:.3g}", str(ratio.pairs)]


def table(rows: Rows) -> str:
    """Markdown, readable as it is."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def seconds_rows(results: Mapping[str, Samples]) -> Rows:
    rows = [["seconds, for orientation only", "target", "median", "lowest", "highest"]]
    for target, samples in results.items():
        for name, found in samples.seconds.items():
            rows.append([name, target, *(f"{f(found):.4g}" for f in (statistics.median, min, max))])
    return rows


def machine() -> str:
    """The facts without which a figure says nothing."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        "?",
    )
    memory = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"{os.cpu_count()} cores ({model}), {memory / 2**20:.0f} GiB of memory, Linux {platform.release()}, Python "
        f"{platform.python_version()}, {packages}. Load average at the end of the run: {load}."
    )


def _lines(path: str) -> Iterable[str]:
    return Path(path).read_text().splitlines()


def plot(medians: Mapping[str, float], title: str) -> str:
    """Bars on a logarithmic axis, as SVG."""
    left, width, bar = 260, 420, 22
    low, high = min(*medians.values(), 0.01), max(*medians.values(), 1.0)
    scale = width / (math.log10(high) - math.log10(low) + 0.3)
    parts = []
    for number, (name, value) in enumerate(medians.items()):
        top = 34 + number * (bar + 6)
        length = max(2.0, (math.log10(value) - math.log10(low) + 0.1) * scale)
        colour = "#1f6f54" if name.startswith("Pawl") else "#8a8f98"
        parts.append(
            f'<text x="{left - 8}" y="{top + 15}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{bar}" fill="{colour}"/>'
            f'<text x="{left + length + 6:.1f}" y="{top + 15}">{value:.3g}</text>'
        )
    height = 44 + len(medians) * (bar + 6)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img"><title>{html.escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="20" font-weight="bold">{html.escape(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def replace_block(page: str, name: str, text: str) -> str:
    """Put `text` between the page's markers of that name.

    Raises:
        ValueError: the page has no such markers.
    """
    begin, end = f"<!-- {name} begins -->", f"<!-- {name} ends -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no markers for {name}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
