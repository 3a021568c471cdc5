"""`pawl registry` and `pawl search`: every version of every run as one Parquet dataset, and questions to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.progress_line import end_progress, tell_progress
from deployments.text_tables import (
    bytes_text,
    counted,
    moment,
    number_text,
    printable,
    rung_text,
    table,
)
from ray_workers.store.errors import InvalidInputError, StoreRefusedError
from ray_workers.store.object_store import ObjectStore

if TYPE_CHECKING:
    from ray_workers.store.registry import Refreshed

__all__ = ["registry_command", "search_command"]

_FAILED = 1


@click.group("registry")
def registry_command() -> None:
    """Every version of every run as one Parquet dataset, for pandas, pyarrow, DuckDB or Spark."""


@command("refresh", "pawl registry refresh", "pawl registry refresh digits", group=registry_command)
@click.argument("runs", nargs=-1)
@storage_option
@json_option
def refresh_command(runs: tuple[str, ...], *, storage: str, as_json: bool) -> None:
    """Bring the registry up to the logs; with RUNS only these."""
    _refresh(runs, storage, as_json=as_json, anew=False)


@command(
    "rebuild",
    "pawl registry rebuild",
    "pawl registry rebuild --storage s3://bucket/runs --json",
    group=registry_command,
)
@storage_option
@json_option
def rebuild_command(*, storage: str, as_json: bool) -> None:
    """Make the registry anew from the logs and manifests alone. Files of runs that are not there any more go."""
    _drop_lost(storage_at(storage).open().store)
    _refresh((), storage, as_json=as_json, anew=True)


@command("path", "pawl registry path", group=registry_command)
@storage_option
def path_command(*, storage: str) -> None:
    """Print where the dataset is, for other programs."""
    from ray_workers.store.registry import REGISTRY_PREFIX  # noqa: PLC0415 - loads pyarrow

    click.echo(f"{storage_at(storage).open().url}/{REGISTRY_PREFIX.rstrip('/')}")


def _refresh(runs: Sequence[str], storage: str, *, as_json: bool, anew: bool) -> None:
    from ray_workers.store.registry import refresh_all, refresh_run  # noqa: PLC0415 - loads pyarrow

    store = storage_at(storage).open().store
    if runs:
        done = tuple(refresh_run(store, run, anew=anew) for run in runs)
    else:
        done = refresh_all(store, anew=anew, tell=tell_progress)
        end_progress()
    if as_json:
        print_json([item.to_json() for item in done])
    else:
        written = sum(item.written for item in done)
        versions = sum(item.versions for item in done)
        click.echo(
            f"{counted(len(done), 'run')}, {counted(versions, 'version')}; {counted(written, 'file')} written."
        )
        _tell_problems(done)
    if any(item.problem for item in done):
        raise SystemExit(_FAILED)


def _drop_lost(store: ObjectStore) -> None:
    from ray_workers.store.registry import drop_lost  # noqa: PLC0415 - loads pyarrow

    try:
        for run in drop_lost(store):
            click.echo(f"{printable(run)}: its file was removed, there is no such run.", err=True)
    except StoreRefusedError as error:
        click.echo(
            f"A file of a run that is not there any more was left: {printable(error.message, 400)}",
            err=True,
        )


def _tell_problems(done: Iterable[Refreshed]) -> None:
    for item in done:
        if item.problem:
            click.echo(f"{printable(item.run)}: {printable(item.problem, 400)}", err=True)


@command(
    "search",
    'pawl search "metrics.loss < 0.2 and config.lr >= 1e-3"',
    "pawl search \"rung = 'sound' and run like 'digits%'\" --sort \"metrics.loss\" --limit 5",
    "pawl search \"list_contains(tags, 'production')\" --json",
)
@click.argument("condition")
@click.option("--sort", metavar="TERMS", help="Such as 'metrics.loss desc'. Default: run, number.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--stale", is_flag=True, help="Do not look for newer versions than the registry has.")
@storage_option
@json_option
def search_command(
    condition: str, *, sort: str | None, limit: int, stale: bool, storage: str, as_json: bool
) -> None:
    """Find the versions for which CONDITION holds, over all runs.

    CONDITION is an SQL expression over the registry's columns (docs/registry.md): run, number, step, epoch, rung, status,
    tags, bytes, committed_at, world_size …; metrics are metrics.NAME, hyperparameters config.NAME. A metric that is NaN
    satisfies no comparison and is sorted last.
    """
    from ray_workers.store.registry import read_registry  # noqa: PLC0415 - loads pyarrow
    from ray_workers.store.registry_search import search  # noqa: PLC0415 - loads DuckDB

    if not condition.strip():
        raise InvalidInputError("The condition is empty; 'true' finds every version.")
    store = storage_at(storage).open().store
    if not stale:
        _bring_up(store)
    found = search(read_registry(store), condition, order=sort, limit=limit)
    rows = [_row_json(row) for row in found.to_pylist()]
    if as_json:
        print_json(rows)
    else:
        click.echo(_rows_text(rows) if rows else "No version matches.")


def _bring_up(store: ObjectStore) -> None:
    """Refresh what is behind. What cannot be is told, and the question is answered from what there is."""
    from ray_workers.store.registry import refresh_all  # noqa: PLC0415 - loads pyarrow

    try:
        _tell_problems(refresh_all(store))
    except StoreRefusedError as error:
        click.echo(
            f"The registry could not be refreshed, so newer versions may be missing: {printable(error.message, 400)}",
            err=True,
        )


def _row_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row with metrics and hyperparameters as objects instead of typed columns."""
    plain = {n: v for n, v in row.items() if "." not in n and not n.endswith("_json")}
    at = plain["committed_at"]
    objects = {
        name: None if row[f"{name}_json"] is None else json.loads(row[f"{name}_json"])
        for name in ("metrics", "config", "durations", "environment")
    }
    return {**plain, "committed_at": None if at is None else at.isoformat(), **objects}


def _rows_text(rows: Sequence[Mapping[str, Any]]) -> str:
    metrics = _common(rows, "metrics", 3)
    settings = _common(rows, "config", 4)
    heads = ["VERSION", "STEP", "RUNG", *map(printable, metrics), *map(printable, settings)]
    cells = [
        [
            printable(f"{row['run']}@{row['number']}"),
            str(row["step"]),
            rung_text(row["rung"]),
            *(_cell((row["metrics"] or {}).get(name)) for name in metrics),
            *(_cell((row["config"] or {}).get(name)) for name in settings),
            bytes_text(row["bytes"]),
            moment(row["committed_at"]),
            printable(", ".join(row["tags"] or ())),
        ]
        for row in rows
    ]
    heads += ["SIZE", "COMMITTED (UTC)", "TAGS"]
    return table(heads, cells, right=(1, *range(3, 4 + len(metrics) + len(settings))))


def _common(rows: Sequence[Mapping[str, Any]], group: str, most: int) -> list[str]:
    """The names that most rows have, `loss` first: as many as fit on a line."""
    counts: dict[str, int] = {}
    for row in rows:
        for name in row[group] or {}:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (name != "loss", -counts[name], name))[:most]


def _cell(value: Any) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return number_text(value)
    return "-" if value is None else printable(value, 24)
