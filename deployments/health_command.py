"""`pawl health`: could every run come back, right now? One screen, one verdict, an exit code for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.progress_line import end_progress, tell_progress
from deployments.text_tables import (
    brief,
    bytes_text,
    counted,
    moment,
    printable,
    seconds_text,
    table,
)
from ray_workers.health_facts import HealthReport, look_at_root
from ray_workers.health_values import Objective, RunHealth
from ray_workers.policies.retention import RetentionPolicy
from ray_workers.storage_accounts import Storage

__all__ = ["health_command", "health_text"]

_MISSED = 1
_COLOURS = {"ready": "green", "warning": "yellow", "critical": "red"}
_MAX_LINES = 12
_MANY = 99
_POSITIVE = click.FloatRange(min=0, min_open=True)
_LINE = 150


@command(
    "health",
    "pawl health",
    "pawl health --at-risk-minutes 15 --budget-gb 500",
    "pawl health --quick --json | jq .verdict",
)
@click.option(
    "--at-risk-minutes",
    type=_POSITIVE,
    default=10.0,
    show_default=True,
    help="Objective: most work at risk.",
)
@click.option(
    "--recovery-minutes",
    type=_POSITIVE,
    default=5.0,
    show_default=True,
    help="Objective: longest recovery.",
)
@click.option("--budget-gb", type=_POSITIVE, help="Objective: most that may be stored, in GB.")
@click.option(
    "--keep-last", type=click.IntRange(min=1), help="Tell what this retention would free."
)
@click.option(
    "--quick", is_flag=True, help="Leave the storage accounts out: no listing, few manifests."
)
@storage_option
@json_option
def health_command(*, storage: str, as_json: bool, **options: Any) -> None:
    """Say for every run whether it could come back, what is at risk, and what the store holds.

    Ends with 0 when the objective is met everywhere, else with 1.
    """
    objective = _objective(options)
    keep = options["keep_last"]
    store = storage_at(storage).open().store
    report = look_at_root(
        store,
        objective,
        retention=None if keep is None else RetentionPolicy(keep_last=keep),
        storage=not options["quick"],
        tell=tell_progress,
    )
    end_progress()
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(health_text(report))
    if report.verdict != "ready":
        raise SystemExit(_MISSED)


def _objective(options: Mapping[str, Any]) -> Objective:
    budget = options["budget_gb"]
    return Objective(
        at_risk_s=60 * options["at_risk_minutes"],
        recovery_s=60 * options["recovery_minutes"],
        budget_bytes=None if budget is None else round(budget * 1e9),
    )


def health_text(report: HealthReport) -> str:
    parts = [f"{_verdict_text(report.verdict)}  {printable(report.summary, 300)}"]
    if report.runs:
        heads = (
            "RUN",
            "STATUS",
            "VERDICT",
            "NEWEST SOUND",
            "AT RISK",
            "RECOVERY p50/p95",
            "SAVES EVERY",
            "MISSED",
            "DROPPED",
            "FAILED",
        )
        rows = [_run_row(run) for run in report.runs]
        parts.append(table(heads, rows, right=(3, 4, 5, 6, 7, 8, 9)))
    parts += [_bad(f"{printable(run)}: {printable(why, 300)}") for run, why in report.unreadable]
    reasons = [
        f"{run.run}: {run.reason} → {run.action}"
        for run in sorted(report.missed, key=lambda run: run.verdict != "critical")
    ]
    reasons += [
        f"{run.run}: {counted(run.rhythm.dropped, 'save')} became no version, the last: {run.rhythm.dropped_reason}"
        for run in report.runs
        if run.rhythm.dropped
    ]
    reasons += [
        f"{run.run}@{number} quarantined: {brief(why)}"
        for run in report.runs
        for number, why in run.quarantined[:2]
    ]
    reasons += [
        f"{run.run}: last failure {moment(told)[:19]}{told[19:]}"
        for run in report.runs
        for told in run.failures[:1]
    ]
    parts += [f"  {printable(line, _LINE)}" for line in reasons[:_MAX_LINES]]
    if len(reasons) > _MAX_LINES:
        parts.append(f"  and {len(reasons) - _MAX_LINES} more: --json has all of them")
    if report.storage is not None:
        parts.append(_storage_text(report.storage))
    return "\n".join(parts)


def _run_row(run: RunHealth) -> list[str]:
    sound = next((r for r in run.rungs if r.rung == "sound"), None)
    risk, recovery, rhythm = run.at_risk, run.recovery, run.rhythm
    steps = "" if risk is None or risk.steps is None else f" ({risk.steps} steps)"
    optimal = "" if rhythm.optimal_s is None else f" (optimal {seconds_text(rhythm.optimal_s)})"
    return [
        printable(run.run),
        printable(run.status),
        _verdict_text(run.verdict),
        "none" if sound is None else f"@{sound.number}, {seconds_text(sound.age_s)} old",
        "-" if risk is None else seconds_text(risk.seconds) + steps,
        "not measured"
        if not recovery.measured
        else f"{seconds_text(recovery.median_s)}/{seconds_text(recovery.p95_s)}",
        seconds_text(rhythm.interval_s) + optimal,
        _few(rhythm.missed),
        _few(rhythm.dropped),
        str(len(run.failures)),
    ]


def _few(number: int) -> str:
    return str(number) if number <= _MANY else f">{_MANY}"


def _storage_text(storage: Storage) -> str:
    largest = sorted(storage.by_run.items(), key=lambda item: -item[1])[:3]
    told = [f"{bytes_text(storage.stored)} kept"]
    told += [f"{printable(run)} {bytes_text(size)}" for run, size in largest]
    if storage.saved_by_sharing:
        told.append(f"sharing saved {bytes_text(storage.saved_by_sharing)} ({storage.shared:.0%})")
    if storage.orphans:
        told.append(f"orphans {bytes_text(storage.orphans)}")
    if storage.growth_per_day is None:
        told.append("growth not known in the first hour")
    else:
        told.append(
            f"grows {bytes_text(storage.growth_per_day)} a day, {bytes_text(storage.in_30_days or 0)} in 30 days"
        )
    if storage.budget is not None:
        left = "" if storage.days_left is None else f", {storage.days_left:.0f} days left"
        told.append(f"budget {bytes_text(storage.budget)}{left}")
    if storage.retention_would_free is not None:
        told.append(f"retention would free {bytes_text(storage.retention_would_free)}")
    return "storage: " + "; ".join(told)


def _verdict_text(verdict: str) -> str:
    return click.style(verdict.upper(), fg=_COLOURS.get(verdict), bold=True)


def _bad(text: str) -> str:
    return click.style(text, fg="red")
