"""`pawl compare`: versions of any runs side by side, in the terminal, as HTML, as tables for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from deployments.cli_options import (
    json_option,
    metric_option,
    mode_option,
    print_json,
    storage_option,
)
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.progress_line import end_progress, tell_progress
from deployments.text_tables import number_text, printable, rung_text, table
from ray_workers.store.errors import InvalidInputError

__all__ = ["compare_command"]

_MAX_LAYERS = 30
_Rows = list[dict[str, Any]]


@command(
    "compare",
    "pawl compare digits@3 digits@best",
    "pawl compare base@production tuned other@7 --html comparison.html",
    "pawl compare a@1 a@9 --export tables --format parquet",
)
@click.argument("references", metavar="RUN@V RUN@V …", nargs=-1, required=True)
@click.option("--no-weights", is_flag=True, help="Do not read the weights.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the page with pictures here.",
)
@click.option(
    "--export",
    "folder",
    type=click.Path(path_type=Path),
    help="Write versions, curves, layers and whole models as tables into this folder.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Of --export.",
)
@storage_option
@json_option
@metric_option
@mode_option
def compare_command(
    references: tuple[str, ...], *, storage: str, as_json: bool, **options: Any
) -> None:
    """Compare versions; the first one is what the others are measured against. RUN alone means RUN@latest."""
    from ray_workers.comparison import compare  # noqa: PLC0415 - loads torch
    from ray_workers.loading import open_version  # noqa: PLC0415

    full = [name if "@" in name else f"{name}@latest" for name in references]
    by, target = {"metric": options["metric"], "mode": options["mode"]}, storage_at(storage)
    chosen = [open_version(reference, target, **by) for reference in full]
    comparison = compare(chosen, weights=not options["no_weights"], tell=tell_progress)
    end_progress()
    if options["html_file"] is not None:
        _write_html(comparison, options["html_file"])
    if options["folder"] is not None:
        _export(comparison, options["folder"], options["kind"])
    if as_json:
        print_json(comparison.to_json())
    else:
        click.echo(_text(comparison))


def _text(comparison: Any) -> str:
    names = [printable(version.reference) for version in comparison.versions]
    parts = [
        table(
            ("", *names),
            [
                ["step", *(str(v.step) for v in comparison.versions)],
                ["epoch", *(str(v.epoch) for v in comparison.versions)],
                ["rung", *(rung_text(v.rung) for v in comparison.versions)],
                ["attempts", *(str(len(v.report.attempts)) for v in comparison.versions)],
                *([printable(n), *map(_number, values)] for n, values in comparison.metrics),
            ],
        )
    ]
    if comparison.differing:
        rows = [[printable(n), *(printable(v, 40) for v in vs)] for n, vs in comparison.differing]
        parts.append(table(("DIFFERENT", *names), rows))
    else:
        parts.append("Their hyperparameters are the same.")
    for reference, layers in comparison.layers.items():
        ranked = sorted(layers, key=lambda layer: -layer.weight)[:_MAX_LAYERS]
        rows = [
            [
                printable(d.name),
                _number(d.norm),
                _number(d.other_norm),
                _number(d.distance),
                f"{d.relative:.1%}",
            ]
            for d in (comparison.whole[reference], *ranked)
        ]
        heads = (
            "LAYER",
            f"NORM {names[0]}",
            f"NORM {printable(reference)}",
            "DISTANCE",
            f"% OF {names[0]}",
        )
        parts.append(table(heads, rows, right=(1, 2, 3, 4)))
    parts += [
        f"{printable(name)}: weights not compared: {printable(why, 300)}"
        for name, why in comparison.without_layers.items()
    ]
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None else number_text(value)


def _write_html(comparison: Any, file: Path) -> None:
    from ray_workers.store.clock import utc_now  # noqa: PLC0415
    from tasks.comparison_page import render_html, sections  # noqa: PLC0415 - draws

    title = ", ".join(version.reference for version in comparison.versions)
    page = render_html(list(sections(comparison)), title=title, at=utc_now())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(
            f"The page could not be written to {file}: {error.strerror}."
        ) from None


def _export(comparison: Any, folder: Path, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in _tables(comparison).items():
        if kind == "csv":
            _write_csv(rows, folder / f"{name}.csv")
        else:
            _write_parquet(rows, folder / f"{name}.parquet")


def _tables(comparison: Any) -> dict[str, _Rows]:
    versions = [
        {
            "reference": v.reference,
            "step": v.step,
            "epoch": v.epoch,
            "rung": v.rung,
            "committed_at": v.committed_at,
            "world_size": v.world_size,
            "config": json.dumps(dict(v.config), sort_keys=True),
            **{f"metrics.{name}": value for name, value in v.metrics.items()},
        }
        for v in comparison.versions
    ]
    curves = [
        {
            "reference": v.reference,
            "step": p.step,
            "hours": p.hours,
            "loss": p.loss,
            "attempt": p.attempt,
        }
        for v in comparison.versions
        for p in v.curve
    ]
    layers = [
        {"reference": name, "layer": d.name, **_measures(d)}
        for name, distances in comparison.layers.items()
        for d in distances
    ]
    whole = [{"reference": name, **_measures(d)} for name, d in comparison.whole.items()]
    return {"versions": versions, "curves": curves, "layers": layers, "whole": whole}


def _measures(distance: Any) -> dict[str, float]:
    return {
        "norm": distance.norm,
        "other_norm": distance.other_norm,
        "distance": distance.distance,
    }


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _write_csv(rows: _Rows, file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, _columns(rows) or ["reference"])
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: _Rows, file: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - for this alone
    import pyarrow.parquet as pq  # noqa: PLC0415

    names = _columns(rows)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), file)
