"""`pawl repair`: what is wrong with a run, and mending what can be mended."""

from __future__ import annotations

import click

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.progress_line import end_progress, tell_progress
from ray_workers.store import keys
from ray_workers.store.attempts import this_process
from ray_workers.store.repair import plan_repair, repair

__all__ = ["repair_command"]


@command(
    "repair",
    "pawl repair digits",
    'pawl repair digits --apply --note "the disk lost slot 7; it held a tag"',
    "pawl repair digits --release --apply",
)
@click.argument("run")
@click.option("--apply", "carry_out", is_flag=True, help="Do it; without this nothing is written.")
@click.option(
    "--release",
    is_flag=True,
    help="Trust versions again that bad bytes quarantined and whose every byte holds now.",
)
@click.option("--note", default="", help="What you know of lost records; stands in the log.")
@storage_option
@json_option
def repair_command(
    run: str, *, carry_out: bool, release: bool, note: str, storage: str, as_json: bool
) -> None:
    """Say what is wrong with RUN, and with --apply mend what can be mended.

    A damaged slot of the log stops all deleting until it is noted as seen: tag again first what its record may have tagged.
    """
    keys.check_run_name(run)
    store = storage_at(storage).open().store
    plan = plan_repair(store, run, release=release, tell=tell_progress)
    end_progress()
    done = repair(store, plan, by=this_process(), lost={"note": note}) if carry_out else ()
    if as_json:
        print_json({**plan.to_json(), "applied": [step.text for step in done]})
        return
    click.echo(
        "\n".join(f"{run}: {step.text}" for step in plan.steps) or f"{run}: nothing is wrong"
    )
    if carry_out:
        click.echo(f"{len(done)} of {len(plan.fixable)} repairs made.")
    elif plan.fixable:
        click.echo(f"{len(plan.fixable)} repairs can be made: add --apply.")
