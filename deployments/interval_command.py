"""`pawl interval RUN`: how often it should be saved, why, and what that costs."""

from __future__ import annotations

import click

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.text_tables import pairs, printable
from ray_workers.interval_account import account_of
from ray_workers.interval_facts import read_history
from ray_workers.store import keys

__all__ = ["interval_command"]


@command("interval", "pawl interval digits", "pawl interval digits --json")
@click.argument("run")
@storage_option
@json_option
def interval_command(run: str, *, storage: str, as_json: bool) -> None:
    """Explain the interval between saves of RUN: what was measured, how surely, and what follows."""
    keys.check_run_name(run)
    account = account_of(read_history(storage_at(storage).open().store, run))
    if as_json:
        print_json(account.to_json())
    else:
        click.echo(pairs({name: printable(text, 400) for name, text in account.lines()}))
