"""`pawl gc`, `pawl delete`: what would go, and then making it go."""

from __future__ import annotations

from typing import Any

import click

from deployments.cli_options import json_option, mode_option, print_json, storage_option
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.progress_line import end_progress, tell_progress
from deployments.text_tables import bytes_text, counted
from ray_workers.config import Retention
from ray_workers.maintaining import MaintenancePlan, maintain_run, plan_maintenance
from ray_workers.policies.thinning_text import parse_duration, policy_of
from ray_workers.store import keys
from ray_workers.store.attempts import read_run, run_names, this_process
from ray_workers.store.errors import InvalidInputError, PawlError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.sweep import SweepReport, delete_run, sweep

__all__ = ["delete_command", "gc_command"]

_FAILED = 1


@command(
    "gc",
    "pawl gc digits --dry-run",
    "pawl gc digits --keep-last 5 --keep-best 2 --thin 1h/1d,1d",
    "pawl gc --all --grace 7d --json",
)
@click.argument("run", required=False)
@click.option("--all", "every", is_flag=True, help="Every run of the store.")
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option(
    "--grace",
    default="24h",
    show_default=True,
    help="How long a version stays retired before its bytes may go: 90s, 36h, 7d.",
)
@click.option(
    "--keep-last", type=click.IntRange(1), help="Retire first: keep the newest N versions."
)
@click.option(
    "--keep-every-steps", type=click.IntRange(1), help="Keep versions at multiples of N steps."
)
@click.option(
    "--keep-every-epochs", type=click.IntRange(1), help="Keep one version every N epochs."
)
@click.option("--keep-best", type=click.IntRange(1), help="Keep the best N versions by --metric.")
@click.option("--metric", default="loss", show_default=True, help="Metric for --keep-best.")
@mode_option
@click.option("--thin", help="Thin by age: 1h/1d,1d keeps one an hour for a day, one a day after.")
@storage_option
@json_option
def gc_command(
    run: str | None,
    *,
    every: bool,
    dry_run: bool,
    grace: str,
    storage: str,
    as_json: bool,
    **rules: Any,
) -> None:
    """Delete what no version of RUN needs any more: condemned versions, orphans, unfinished uploads.

    With a rule (--keep-last …) versions that no rule keeps are retired first; their bytes go when the grace is over.
    What is tagged, forked from, resumed from, or among the newest trusted is never retired.
    """
    policy = policy_of(Retention(**rules))
    grace_s = parse_duration(grace)
    store = storage_at(storage).open().store
    answers, failed = [], False
    for name in _runs(store, run, every=every):
        try:
            answer = _one(store, name, (policy, grace_s), dry_run=dry_run, quiet=as_json)
        except PawlError as error:
            if not every:
                raise
            end_progress()
            click.echo(f"{name}: {error.message}", err=True)
            answer, failed = {"run": name, "error": error.message}, True
        answers.append(answer)
        failed = failed or (not dry_run and answer.get("blocked") is not None)
    if as_json:
        print_json(answers if every else answers[0])
    if failed:
        raise SystemExit(_FAILED)


@command("delete", "pawl delete digits", "pawl delete digits --yes --json")
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@storage_option
@json_option
def delete_command(run: str, *, yes: bool, storage: str, as_json: bool) -> None:
    """Give up RUN with all its versions and delete their bytes. Its log stays, and its name can be used again."""
    keys.check_run_name(run)
    store = storage_at(storage).open().store
    read_run(store, run)  # a name that is wrong is said before anybody confirms it
    if not yes:
        click.confirm(f"Delete every version of {run!r} for ever?", abort=True, err=as_json)
    delete_run(store, run, by=this_process())
    report = sweep(store, run, by=this_process(), tell=tell_progress)
    end_progress()
    if as_json:
        print_json(report.to_json())
    else:
        click.echo("\n".join(_report_lines(report)))


def _runs(store: ObjectStore, run: str | None, *, every: bool) -> list[str]:
    if (run is None) == (not every):
        raise InvalidInputError("Name one run, or give --all.")
    return list(run_names(store)) if run is None else [keys.check_run_name(run)]


def _one(
    store: ObjectStore, run: str, how: tuple[Any, float], *, dry_run: bool, quiet: bool
) -> dict[str, Any]:
    policy, grace_s = how
    plan = plan_maintenance(store, run, policy=policy, grace_s=grace_s, tell=tell_progress)
    end_progress()
    if not quiet:
        click.echo(_plan_text(plan))
    if dry_run:
        return {"dry_run": True, **plan.to_json()}
    report = maintain_run(store, plan, grace_s=grace_s, by=this_process(), tell=tell_progress)
    end_progress()
    if not quiet:
        click.echo("\n".join(_report_lines(report)))
    return {"dry_run": False, **plan.to_json(), **report.to_json()}


def _plan_text(plan: MaintenancePlan) -> str:
    return "\n".join([f"Plan for {plan.run}:", *(f"  {line}" for line in plan.lines())])


def _report_lines(report: SweepReport) -> list[str]:
    if report.plan.blocked is not None:
        return [f"Nothing was deleted of {report.run}: {report.plan.blocked}"]
    if not (report.condemned or report.deleted or report.swept):
        return [f"{report.run}: nothing was deleted."]
    size = bytes_text(sum(report.bytes_deleted.values()))
    given_up = f"{counted(len(report.condemned), 'version')} given up for good"
    gone = f"{counted(len(report.swept), 'version')} gone entirely"
    return [
        f"{report.run}: {given_up}, {counted(report.deleted, 'object')} ({size}) deleted, {gone}."
    ]
