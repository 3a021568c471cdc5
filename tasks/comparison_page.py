"""A comparison as sections, and the sections as Markdown for an artifact or as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ray_workers.comparison import Comparison
from tasks.comparison_chart import curve_chart, layer_chart
from tasks.lineage_graph import lineage_graph
from tasks.markdown_text import DASH, moment, plain, real, table
from tasks.svg import data_uri

__all__ = ["Section", "render_html", "render_markdown", "sections"]

_MAX_ROWS = 60
_STYLE = (
    "body{font:16px/1.5 Helvetica,Arial,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#262626}"
    "table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
    "img{max-width:100%}h2{margin-top:2rem}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Exactly one of picture, table and text."""

    title: str
    svg: str | None = None
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    text: str | None = None


def sections(comparison: Comparison) -> Iterator[Section]:
    """What is to be seen, most telling first; plain text, not yet made safe for any markup."""
    names = tuple(version.reference for version in comparison.versions)
    yield Section(
        title="Versions",
        heads=("version", "step", "epoch", "rung", "workers", "attempts", "committed (UTC)", "forked from"),
        rows=tuple(
            (v.reference, f"{v.step:,}", str(v.epoch), v.rung, str(v.world_size), str(len(v.report.attempts)),
             v.committed_at[:19].replace("T", " "), v.forked_from or DASH)
            for v in comparison.versions
        ),
    )  # fmt: skip
    if comparison.metrics:
        rows = tuple((name, *map(real, values)) for name, values in comparison.metrics)
        yield Section(title="Metrics", heads=("metric", *names), rows=rows)
    if comparison.differing:
        rows = tuple((name, *values) for name, values in comparison.differing[:_MAX_ROWS])
        yield Section(title="Hyperparameters that differ", heads=("name", *names), rows=rows)
    else:
        yield Section(
            title="Hyperparameters that differ", text="None: they are the same everywhere."
        )
    for over, title in (("step", "Loss over steps"), ("hours", "Loss over wall-clock")):
        svg = curve_chart(comparison.versions, over=over)
        if svg is not None:
            yield Section(title=title, svg=svg)
    yield from _layers(comparison)
    yield from _lineages(comparison)


def _layers(comparison: Comparison) -> Iterator[Section]:
    first = comparison.versions[0].reference
    for reference, distances in comparison.layers.items():
        title = f"Weights: {reference} against {first}"
        svg = layer_chart(reference, distances)
        if svg is not None:
            yield Section(title=title, svg=svg)
        rows = tuple(
            (d.name, real(d.norm), real(d.other_norm), real(d.distance), f"{d.relative:.2%}")
            for d in (comparison.whole[reference], *distances[:_MAX_ROWS])
        )
        heads = ("layer", f"norm in {first}", f"norm in {reference}", "distance", "relative")
        yield Section(title=f"Layer by layer: {reference}", heads=heads, rows=rows)
    for reference, why in comparison.without_layers.items():
        yield Section(title=f"Weights: {reference}", text=f"Not compared: {why}")


def _lineages(comparison: Comparison) -> Iterator[Section]:
    reports = {version.run: version.report for version in comparison.versions}
    for run, report in reports.items():
        svg = lineage_graph(report)
        if svg is not None:
            yield Section(title=f"Lineage of {run}", svg=svg)


def render_markdown(parts: Sequence[Section]) -> str:
    return "\n\n".join(_markdown(part) for part in parts) + "\n"


def _markdown(part: Section) -> str:
    head = f"## {plain(part.title, 120)}\n\n"
    if part.svg is not None:
        return f"{head}![{plain(part.title, 120)}]({data_uri(part.svg)})"
    if part.text is not None:
        return head + plain(part.text, 400)
    heads = [plain(text, 60) for text in part.heads]
    return head + table(heads, [[plain(cell, 120) for cell in row] for row in part.rows])


def render_html(parts: Sequence[Section], *, title: str, at: str) -> str:
    """One file: pictures are inside, no script, nothing is fetched."""
    body = "\n".join(_html(part) for part in parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n"
        f"<p>As of {html.escape(moment(at))} UTC.</p>\n{body}\n</body></html>\n"
    )


def _html(part: Section) -> str:
    head = f"<h2>{html.escape(part.title)}</h2>"
    if part.svg is not None:
        return f'{head}\n<img alt="{html.escape(part.title)}" src="{data_uri(part.svg)}">'
    if part.text is not None:
        return f"{head}\n<p>{html.escape(part.text)}</p>"
    rows = [_html_row(part.heads, "th"), *(_html_row(row, "td") for row in part.rows)]
    return f"{head}\n<table>\n{chr(10).join(rows)}\n</table>"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
