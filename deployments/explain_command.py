"""`pawl explain RUN`: what interrupted it, what was resumed and why, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence

import click

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.text_tables import brief, fine_seconds_text, pairs, printable
from ray_workers.explaining import Interruption, interruptions
from ray_workers.report_builder import build_report
from ray_workers.store import keys

__all__ = ["explain_command", "explain_text"]


@command("explain", "pawl explain digits", "pawl explain digits --json")
@click.argument("run")
@storage_option
@json_option
def explain_command(run: str, *, storage: str, as_json: bool) -> None:
    """Explain every interruption of RUN: what ended the attempt, what was resumed and why, what it cost by phase."""
    keys.check_run_name(run)
    found = interruptions(build_report(storage_at(storage).open().store, run))
    if as_json:
        print_json([item.to_json() for item in found])
    else:
        click.echo(explain_text(run, found))


def explain_text(run: str, found: Sequence[Interruption]) -> str:
    if not found:
        return f"Run {run!r} was never interrupted."
    return "\n\n".join(_section(item) for item in found)


def _section(item: Interruption) -> str:
    title = click.style(f"attempt {item.before} → attempt {item.attempt}", bold=True)
    ended = item.what
    if item.detail:
        ended += f": {printable(item.detail, 300)}"
    rows = {
        "ended by": ended,
        "where": _where(item),
        "resumed": _resumed(item),
        "because": printable(item.why, 200),
        "passed over": "; ".join(
            f"version {printable(v)}: {brief(r)}" for v, r in item.passed_over
        ),
        "steps lost": _steps(item),
        "time lost": ", ".join(
            f"{phase} {fine_seconds_text(s)}" for phase, s in item.seconds.items()
        ),
        "together": fine_seconds_text(item.total),
    }
    return f"{title}\n{pairs(rows)}"


def _resumed(item: Interruption) -> str:
    at = "" if item.step is None else f" (step {item.step})"
    version = None if item.resumed is None else f"version {printable(item.resumed)}{at}"
    if item.went_on:
        return "nothing" if version is None else f"nothing after {version}"
    return version or "nothing"


def _steps(item: Interruption) -> str:
    if item.went_on:
        return "none"
    return "unknown" if item.steps_lost is None else f"{item.steps_lost} or more"


def _where(item: Interruption) -> str:
    """What failed, and on which host the flow ran."""
    known = [] if item.rank is None else [f"rank {item.rank}"]
    known += [] if item.node is None else [f"node {printable(item.node, 60)}"]
    return ", ".join([*known, f"flow on host {printable(item.host, 60)}"])
