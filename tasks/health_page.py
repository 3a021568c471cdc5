"""What the health artifact says: the verdict first, a picture of age against objective, then the tables."""

from __future__ import annotations

from dataclasses import dataclass

from ray_workers.health_facts import HealthReport
from ray_workers.health_values import Recovery, RunHealth
from ray_workers.storage_accounts import Storage
from tasks.health_chart import risk_chart, storage_chart
from tasks.markdown_text import (
    DASH,
    bytes_text,
    count,
    duration,
    moment,
    plain,
    short_reason,
    spans,
    table,
)
from tasks.svg import data_uri

__all__ = ["HealthPage", "render_health"]

_MAX_RUNS = 60
_MAX_LINES = 12
_MANY = 99
_LEGEND = (
    "At risk: work since the begin of the copy that is the newest version to resume. Missed: saves that are overdue now. "
    "Dropped: saves that became no version."
)
_SIGNS = {"ready": "🟢", "warning": "🟡", "critical": "🔴"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPage:
    markdown: str
    headline: str


def render_health(report: HealthReport) -> HealthPage:
    """The page of one report. Pure."""
    sign = _SIGNS[report.verdict]
    sections = [
        f"# {sign} {report.verdict.capitalize()}: {plain(report.summary, 200)}",
        _to_do(report),
        _promise(report),
        _picture("What is at risk", risk_chart(report)),
        _section("Runs", _runs_table(report.runs)),
        _section("Saves that became no version", _dropped(report.runs)),
        _section("Quarantined", _quarantined(report.runs)),
        _section("Attempts that failed or were lost", _failures(report.runs)),
    ]
    if report.storage is not None:
        sections += [
            _picture("Storage", storage_chart(report.storage)),
            _storage_table(report.storage),
        ]
    markdown = "\n\n".join(section for section in sections if section) + "\n"
    runs = f"{len(report.runs)} run{'' if len(report.runs) == 1 else 's'}"
    headline = f"{sign} **{report.verdict}** · {runs}  \n{plain(report.reason, 80)}"
    return HealthPage(markdown=markdown, headline=headline)


def _to_do(report: HealthReport) -> str | None:
    """Every run that misses the objective, the worst first: why, and what to do."""
    rows = [
        [_SIGNS["critical"], f"**{plain(run, 60)}**", plain(why, 200), ""]
        for run, why in report.unreadable
    ]
    rows += [
        [
            _SIGNS[run.verdict],
            f"**{plain(run.run, 60)}**",
            plain(run.reason, 200),
            spans(run.action, 200),
        ]
        for run in sorted(report.missed, key=lambda run: run.verdict != "critical")
    ]
    if not rows:
        return None
    more = len(rows) - _MAX_LINES
    shown = table(("", "run", "why", "what to do"), rows[:_MAX_LINES])
    return shown + (f"\n\nand {more} more" if more > 0 else "")


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
    # What counts most comes first: Prefect's older page has no room for all of it, and scrolls.
    heads = (
        "", "run", "at risk", "recovery, median / p95", "newest versions", "saves every", "missed", "dropped",
    )  # fmt: skip
    order = {"critical": 0, "warning": 1, "ready": 2}
    ranked = sorted(runs, key=lambda run: (order[run.verdict], run.status != "running", run.run))
    return f"{table(heads, [_run_row(run) for run in ranked[:_MAX_RUNS]])}\n\n{_LEGEND}"


def _run_row(run: RunHealth) -> list[str]:
    risk, recovery, rhythm = run.at_risk, run.recovery, run.rhythm
    steps = "" if risk is None or risk.steps is None else f", {count(risk.steps)} steps"
    hours = "" if risk is None else f", {risk.worker_hours:.2g} worker-hours"
    best = "" if rhythm.optimal_s is None else f" (optimal {duration(rhythm.optimal_s)})"
    return [
        _SIGNS[run.verdict],
        f"**{plain(run.run, 60)}** {plain(run.status, 20)}",
        DASH if risk is None else f"{duration(risk.seconds)}{steps}{hours}",
        _recovery(recovery),
        _newest(run),
        f"{duration(rhythm.interval_s)}{best}",
        _few(rhythm.missed),
        _few(rhythm.dropped),
    ]


def _newest(run: RunHealth) -> str:
    """The newest version at each rung; one that has a higher rung too is told once."""
    told: dict[int, str] = {}
    for r in run.rungs:  # from the lowest rung up
        told[r.number] = f"{r.rung} v{r.number}, {duration(r.age_s)} old"
    return "; ".join(plain(text, 80) for text in reversed(told.values())) or "none"


def _recovery(recovery: Recovery) -> str:
    if not recovery.measured:
        return "not measured"
    what = "drill" if recovery.drills_s else "resume"
    times = f"{duration(recovery.median_s)} / {duration(recovery.p95_s)}"
    return f"{times} ({len(recovery.measured)} {what}{'s' if len(recovery.measured) > 1 else ''})"


def _few(number: int) -> str:
    return count(number) if number <= _MANY else f"more than {_MANY}"


def _dropped(runs: tuple[RunHealth, ...]) -> str | None:
    told = [(r.run, r.rhythm) for r in runs if r.rhythm.dropped]
    return _lines(
        [
            f"{run}: {_few(rhythm.dropped)}, the last: {rhythm.dropped_reason}"
            for run, rhythm in told
        ]
    )


def _quarantined(runs: tuple[RunHealth, ...]) -> str | None:
    return _lines(
        [f"{r.run}@{number}: {short_reason(why)}" for r in runs for number, why in r.quarantined]
    )


def _failures(runs: tuple[RunHealth, ...]) -> str | None:
    return _lines(
        [
            f"{run.run}: {told[:19].replace('T', ' ')}{told[19:]}"
            for run in runs
            for told in run.failures
        ]
    )


def _lines(lines: list[str]) -> str | None:
    if not lines:
        return None
    shown = [f"- {plain(line, 240)}" for line in lines[:_MAX_LINES]]
    more = len(lines) - _MAX_LINES
    return "\n".join(shown + ([f"- and {more} more"] if more > 0 else []))


def _storage_table(storage: Storage) -> str:
    growth = storage.growth_per_day
    known = "not known in the first hour"
    rows = [
        ("kept", bytes_text(storage.stored)),
        ("saved by sharing", f"{bytes_text(storage.saved_by_sharing)} ({storage.shared:.0%})"),
        ("orphans", DASH if storage.orphans is None else bytes_text(storage.orphans)),
        ("growth a day", known if growth is None else bytes_text(growth)),
        ("in 30 days", known if storage.in_30_days is None else bytes_text(storage.in_30_days)),
        ("budget", "none" if storage.budget is None else bytes_text(storage.budget)),
    ]
    if storage.days_left is not None:
        rows.append(("budget is spent in", f"{storage.days_left:.0f} days"))
    if storage.retention_would_free is not None:
        rows.append(("retention would free", bytes_text(storage.retention_would_free)))
    rows += [
        (f"at rung {rung}", bytes_text(size)) for rung, size in sorted(storage.by_rung.items())
    ]
    rows += [(f"{age} old", bytes_text(size)) for age, size in storage.by_age.items()]
    return table(("storage", "bytes"), rows, right="1")
