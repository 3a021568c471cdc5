"""`pawl runs`, `versions`, `show`, `verify`: they read the store alone, and start without any heavy library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from deployments.cli_options import (
    json_option,
    metric_option,
    mode_option,
    named_version,
    print_json,
    readable,
    storage_option,
)
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.progress_line import end_progress, tell_progress
from deployments.read_texts import audit_text, entry_text, runs_text, versions_text
from ray_workers.store import keys
from ray_workers.store.attempts import run_names
from ray_workers.store.audit import audit_run
from ray_workers.store.catalog import VersionCatalog, version_rows
from ray_workers.store.errors import DamageError, InvalidInputError, MissingError
from ray_workers.store.run_listing import list_runs
from ray_workers.store.run_state import VersionState
from ray_workers.store.versions import parse_reference

__all__ = ["runs_command", "show_command", "verify_command", "versions_command"]

_DAMAGED = 1


@command("runs", "pawl runs", "pawl runs --storage s3://bucket/runs --json")
@storage_option
@json_option
def runs_command(*, storage: str, as_json: bool) -> None:
    """List the runs of a store."""
    root = storage_at(storage).open()
    entries = list_runs(root.store)
    if as_json:
        print_json([entry.to_json() for entry in entries])
    else:
        click.echo(runs_text(entries, root.url))


@command(
    "versions",
    "pawl versions digits",
    "pawl versions digits --last 20",
    "pawl versions digits --json",
)
@click.argument("run")
@click.option("--last", type=click.IntRange(min=1), help="Only the newest N.")
@storage_option
@json_option
def versions_command(run: str, *, last: int | None, storage: str, as_json: bool) -> None:
    """List the versions of RUN, oldest first."""
    keys.check_run_name(run)
    entries = version_rows(storage_at(storage).open().store, run)[-(last or 0) :]
    if as_json:
        print_json([entry.to_json() for entry in entries])
    else:
        click.echo(versions_text(entries, run))


@command(
    "show",
    "pawl show digits@3",
    "pawl show digits@best --metric accuracy --mode max",
    "pawl show digits@production --json",
)
@click.argument("reference", metavar="RUN@N")
@storage_option
@json_option
@metric_option
@mode_option
def show_command(reference: str, *, storage: str, as_json: bool, metric: str, mode: str) -> None:
    """Show one version; N is a number, a tag, latest, sound or best."""
    named = named_version(reference, storage, metric=metric, mode=mode)
    run, state, version = named.run, named.state, named.version
    (entry,) = VersionCatalog(named.store, run).entries(state, [version.number])
    if not as_json:
        click.echo(entry_text(entry, state))
        return
    facts = entry.facts
    print_json(
        {
            "run": run,
            "run_id": state.run_id,
            **entry.to_json(),
            "manifest_key": keys.manifest_key(run, version.fence, version.manifest),
            "environment": None if facts is None else dict(facts.environment),
            "curve": None if facts is None else {n: c.to_json() for n, c in facts.curve.items()},
        }
    )


@command("verify", "pawl verify digits", "pawl verify digits@sound", "pawl verify --all --json")
@click.argument("reference", metavar="RUN[@N]", required=False)
@click.option("--all", "every", is_flag=True, help="Every run of the store.")
@storage_option
@json_option
@metric_option
@mode_option
def verify_command(
    reference: str | None, *, every: bool, storage: str, as_json: bool, metric: str, mode: str
) -> None:
    """Read everything of RUN back and compare every digest; with @N the objects of that version alone.

    The log's records and fold caches are always read. Nothing is written. Ends with 1 when anything is damaged.
    """
    if (reference is None) == (not every):
        raise InvalidInputError("Name one run, or give --all.")
    if reference is None:
        _verify_all(storage, as_json=as_json)
        return
    run = parse_reference(reference)[0] if "@" in reference else keys.check_run_name(reference)
    chosen: Sequence[VersionState] | None = None
    if "@" in reference:
        named = named_version(reference, storage, metric=metric, mode=mode)
        store, chosen = named.store, [readable(run, named.version)]
    else:
        store = storage_at(storage).open().store
    report = audit_run(store, run, chosen, tell=tell_progress)
    end_progress()
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(audit_text(report))
    if not report.good:
        raise SystemExit(_DAMAGED)


def _verify_all(storage: str, *, as_json: bool) -> None:
    """One run that cannot be read does not hide the others."""
    store = storage_at(storage).open().store
    answers: list[dict[str, Any]] = []
    for run in run_names(store):
        try:
            report = audit_run(store, run, tell=tell_progress)
            answer, text = report.to_json(), audit_text(report)
        except (DamageError, MissingError, InvalidInputError) as error:
            answer, text = {"run": run, "good": False, "problem": error.message}, error.message
        end_progress()
        answers.append(answer)
        if not as_json:
            click.echo(text)
    if as_json:
        print_json(answers)
    if not all(answer["good"] for answer in answers):
        raise SystemExit(_DAMAGED)
