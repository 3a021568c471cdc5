"""`pawl runs`, `versions`, `show`, `verify`: they read the store alone, and start without any heavy library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from deployments.read_texts import audit_text, entry_text, runs_text, versions_text
from ray_workers.store import keys
from ray_workers.store.attempts import read_run
from ray_workers.store.audit import audit_run
from ray_workers.store.catalog import VersionCatalog, version_rows
from ray_workers.store.errors import VersionGoneError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root
from ray_workers.store.run_listing import list_runs
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.versions import best_version, find_version, parse_reference

__all__ = ["runs_command", "show_command", "verify_command", "versions_command"]

_DAMAGED = 1

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_storage: _Decorator = click.option(
    "--storage",
    envvar="PAWL_STORAGE",
    default="./pawl-store",
    metavar="URL",
    help="Folder or s3://bucket/prefix. Default: PAWL_STORAGE, else ./pawl-store.",
)
_as_json: _Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_metric: _Decorator = click.option(
    "--metric", default="loss", show_default=True, help="What RUN@best goes by."
)
_mode: _Decorator = click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    default="min",
    show_default=True,
    help="Whether a smaller or a larger metric is better.",
)


@click.command("runs")
@_storage
@_as_json
def runs_command(*, storage: str, as_json: bool) -> None:
    """List the runs of a store."""
    root = open_root(storage, create=False)
    entries = list_runs(root.store)
    if as_json:
        _print_json([entry.to_json() for entry in entries])
    else:
        click.echo(runs_text(entries, root.url))


@click.command("versions")
@click.argument("run")
@_storage
@_as_json
def versions_command(run: str, *, storage: str, as_json: bool) -> None:
    """List the versions of RUN, oldest first."""
    keys.check_run_name(run)
    entries = version_rows(open_root(storage, create=False).store, run)
    if as_json:
        _print_json([entry.to_json() for entry in entries])
    else:
        click.echo(versions_text(entries, run))


@click.command("show")
@click.argument("reference", metavar="RUN@N")
@_storage
@_as_json
@_metric
@_mode
def show_command(reference: str, *, storage: str, as_json: bool, metric: str, mode: str) -> None:
    """Show one version; N is a number, latest, sound or best."""
    run, name = parse_reference(reference)
    store = open_root(storage, create=False).store
    state = read_run(store, run)
    version = _find(store, state, name, metric=metric, mode=mode)
    (entry,) = VersionCatalog(store, run).entries(state, [version.number])
    if not as_json:
        click.echo(entry_text(entry, state))
        return
    facts = entry.facts
    _print_json(
        {
            "run": run,
            "run_id": state.run_id,
            **entry.to_json(),
            "manifest_key": keys.manifest_key(run, version.fence, version.manifest),
            "environment": None if facts is None else dict(facts.environment),
            "curve": None if facts is None else {n: c.to_json() for n, c in facts.curve.items()},
        }
    )


@click.command("verify")
@click.argument("reference", metavar="RUN[@N]")
@_storage
@_as_json
@_metric
@_mode
def verify_command(reference: str, *, storage: str, as_json: bool, metric: str, mode: str) -> None:
    """Read everything of RUN back and compare every digest; with @N the objects of that version alone.

    The log's records and fold caches are always read. Nothing is written. Ends with 1 when anything is damaged.
    """
    run, name = parse_reference(reference) if "@" in reference else (reference, None)
    keys.check_run_name(run)
    store = open_root(storage, create=False).store
    chosen: Sequence[VersionState] | None = None
    if name is not None:
        chosen = [
            _readable(run, _find(store, read_run(store, run), name, metric=metric, mode=mode))
        ]
    report = audit_run(store, run, chosen, tell=_tell_progress)
    _end_progress()
    if as_json:
        _print_json(report.to_json())
    else:
        click.echo(audit_text(report))
    if not report.good:
        raise SystemExit(_DAMAGED)


def _find(
    store: ObjectStore, state: RunState, name: str, *, metric: str, mode: str
) -> VersionState:
    picker = best_version(store, state.run, metric=metric, mode=mode)
    return find_version(state, name, best=picker)


def _readable(run: str, version: VersionState) -> VersionState:
    if not version.readable:
        raise VersionGoneError(
            f"Version {version.number} of run {run!r} is {version.status}: its bytes are not kept any more."
        )
    return version


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def _tell_progress(text: str) -> None:
    """On a terminal one line that is written over; elsewhere a line each."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)
    else:
        click.echo(text, err=True)


def _end_progress() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
