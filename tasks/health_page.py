"""What the health artifact says: the verdict first, a picture of age against objective, then the tables."""

from __future__ import annotations

from dataclasses import dataclass

from ray_workers.health import RunHealth
from ray_workers.health_facts import HealthReport
from ray_workers.storage_accounts import Storage
from tasks.health_chart import risk_chart, storage_chart
from tasks.markdown_text import DASH, bytes_text, count, duration, moment, plain, table
from tasks.svg import data_uri

__all__ = ["HealthPage", "render_health"]

_MAX_RUNS = 60
_MAX_LINES = 12
_SIGNS = {"ready": "🟢", "warning": "🟡", "critical": "🔴"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPage:
    markdown: str
    headline: str


def render_health(report: HealthReport) -> HealthPage:
    """The page of one report. Pure."""
    sign = _SIGNS[report.verdict]
    sections = [
        f"# {sign} {report.verdict.capitalize()}\n\n{plain(report.reason, 300)}",
        _promise(report),
        _picture("What is at risk", risk_chart(report)),
        _section("Runs", _runs_table(report.runs)),
        _section("Quarantined", _quarantined(report.runs)),
        _section("Attempts that did not complete", _failures(report.runs)),
        _section("Unreadable runs", _lines([f"{run}: {why}" for run, why in report.unreadable])),
    ]
    if report.storage is not None:
        sections += [
            _picture("Storage", storage_chart(report.storage)),
            _storage_table(report.storage),
        ]
    markdown = "\n\n".join(section for section in sections if section) + "\n"
    headline = (
        f"{sign} **{report.verdict}** · {len(report.runs)} runs  \n{plain(report.reason, 80)}"
    )
    return HealthPage(markdown=markdown, headline=headline)


def _promise(report: HealthReport) -> str:
    wanted = report.objective
    return (
        f"Objective: at most {duration(wanted.at_risk_s)} of work at risk, recovery within "
        f"{duration(wanted.recovery_s)}. As of {moment(report.at)} UTC."
    )


def _section(title: str, body: str | None) -> str | None:
    return None if body is None else f"## {title}\n\n{body}"


def _picture(title: str, svg: str | None) -> str | None:
    return None if svg is None else f"## {title}\n\n![{title}]({data_uri(svg)})"


def _runs_table(runs: tuple[RunHealth, ...]) -> str | None:
    if not runs:
        return None
    heads = (
        "",
        "run",
        "newest sound",
        "at risk",
        "recovery, median / p95",
        "saves every",
        "missed",
        "why",
    )
    order = {"critical": 0, "warning": 1, "ready": 2}
    ranked = sorted(runs, key=lambda run: (order[run.verdict], run.status != "running", run.run))
    return table(heads, [_run_row(run) for run in ranked[:_MAX_RUNS]])


def _run_row(run: RunHealth) -> list[str]:
    ages = ", ".join(
        f"{r.rung} v{r.number} {duration(r.age_s)}" for r in run.rungs if r.rung != "committed"
    )
    risk, recovery, rhythm = run.at_risk, run.recovery, run.rhythm
    steps = "" if risk is None or risk.steps is None else f", {count(risk.steps)} steps"
    hours = "" if risk is None else f", {risk.worker_hours:.2g} worker-hours"
    best = "" if rhythm.optimal_s is None else f" (best {duration(rhythm.optimal_s)})"
    return [
        _SIGNS[run.verdict],
        f"**{plain(run.run, 60)}** {plain(run.status, 20)}",
        plain(ages, 120) or "none",
        DASH if risk is None else f"{duration(risk.seconds)}{steps}{hours}",
        f"{duration(recovery.median_s)} / {duration(recovery.p95_s)}",
        f"{duration(rhythm.interval_s)}{best}",
        count(rhythm.missed),
        plain(run.reason, 160),
    ]


def _quarantined(runs: tuple[RunHealth, ...]) -> str | None:
    return _lines([f"{r.run}@{number}: {why}" for r in runs for number, why in r.quarantined])


def _failures(runs: tuple[RunHealth, ...]) -> str | None:
    return _lines([f"{run.run}: {told}" for run in runs for told in run.failures])


def _lines(lines: list[str]) -> str | None:
    if not lines:
        return None
    shown = [f"- {plain(line, 240)}" for line in lines[:_MAX_LINES]]
    more = len(lines) - _MAX_LINES
    return "\n".join(shown + ([f"- and {more} more"] if more > 0 else []))


def _storage_table(storage: Storage) -> str:
    left = DASH if storage.days_left is None else f"{storage.days_left:.0f} days"
    rows = [
        ("kept", bytes_text(storage.stored)),
        ("saved by sharing", bytes_text(storage.saved_by_sharing)),
        ("orphans", DASH if storage.orphans is None else bytes_text(storage.orphans)),
        ("growth a day", bytes_text(storage.growth_per_day)),
        ("budget", DASH if storage.budget is None else bytes_text(storage.budget)),
        ("until it is spent", left),
        (
            "retention would free",
            DASH
            if storage.retention_would_free is None
            else bytes_text(storage.retention_would_free),
        ),
        *((f"rung {rung}", bytes_text(size)) for rung, size in sorted(storage.by_rung.items())),
        *((age, bytes_text(size)) for age, size in storage.by_age.items()),
    ]
    return table(("", ""), rows, right="1")
