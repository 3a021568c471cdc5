"""The lineage page: one Markdown text that both of Prefect's pages draw alike, and a headline of two lines.

Pictures are SVG in data URIs, since inline SVG is stripped by both; Mermaid is left out, since one of them shows its source.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ray_workers.report import AttemptRow, RunReport, VersionRow
from tasks.charts import loss_chart
from tasks.interruption_page import explanations
from tasks.interval_page import interval_list
from tasks.lineage_graph import lineage_graph
from tasks.lineage_tables import (
    attempts_table,
    config_table,
    reference,
    rejected_list,
    versions_table,
)
from tasks.markdown_text import bytes_text, code, count, duration, moment, plain, real
from tasks.metrics_chart import MAX_PANELS, metrics_chart, metrics_to_draw
from tasks.svg import data_uri

__all__ = ["LineagePage", "render"]

_MAX_LINES = 20
_MAX_NAMES = 8
_MAX_HEADLINE = 42
_MAX_BYTES = 196_000
_NAMES_BYTES = 3_000
"""What the names of metrics that are not drawn may take."""
_AFTER_LOSS = 3
"""Where the other metrics stand among the sections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineagePage:
    markdown: str
    headline: str
    """Markdown of one or two lines: where the run stands."""


def render(report: RunReport) -> LineagePage:
    """The page of one report. Pure: the same report gives the same text; below 200 kB whatever the report."""
    sections = [
        _summary(report),
        _damage(report),
        _picture("Loss", loss_chart(report), "Loss over the steps"),
        _picture("Lineage", lineage_graph(report), "Attempts and their versions"),
        _section("What was resumed, and why", _resumed(report)),
        _section("Interruptions", explanations(report)),
        _section("Interval between saves", interval_list(report.interval)),
        _section("Rejected versions", rejected_list(report)),
        _section("Versions", versions_table(report) if report.versions else None),
        _section("Attempts", attempts_table(report) if report.attempts else None),
        _section("Hyperparameters of the newest version", config_table(report)),
        _section("Retention", _bullets(report.retention)),
    ]
    room = _MAX_BYTES - sum(len(section.encode()) + 2 for section in sections if section)
    sections.insert(_AFTER_LOSS, _metrics(report, room))
    markdown = "\n\n".join(section for section in sections if section)
    return LineagePage(markdown=markdown + "\n", headline=_headline(report))


def _metrics(report: RunReport, room: int) -> str | None:
    """The metrics besides the loss: drawn if that takes no more than `room` bytes, and the others by name."""
    names = metrics_to_draw(report)
    if not names:
        return None
    picture = _picture("Metrics", metrics_chart(report), "Other metrics over the steps") or ""
    if len(picture) > room - _NAMES_BYTES:
        picture, left = "## Metrics", names
    else:
        left = names[MAX_PANELS:]
    if not left:
        return picture
    more = f" and {len(left) - _MAX_NAMES} more" if len(left) > _MAX_NAMES else ""
    told = ", ".join(code(name, 60) for name in left[:_MAX_NAMES])
    command = code(f"pawl show {report.run}@latest --json")
    return f"{picture}\n\nNot drawn here: {told}{more}. {command} has their values."


def _section(title: str, body: str | None) -> str | None:
    return None if body is None else f"## {title}\n\n{body}"


def _picture(title: str, svg: str | None, alt: str) -> str | None:
    return None if svg is None else f"## {title}\n\n![{alt}]({data_uri(svg)})"


def _bullets(lines: tuple[str, ...]) -> str | None:
    if not lines:
        return None
    shown = [f"- {plain(line, 300)}" for line in lines[:_MAX_LINES]]
    if len(lines) > _MAX_LINES:
        shown.append(f"- and {len(lines) - _MAX_LINES} more")
    return "\n".join(shown)


def _headline(report: RunReport) -> str:
    """Some forty characters a line: more is cut off on the card that Prefect makes of it."""
    sound = report.newest_sound
    attempt = report.last_attempt
    second = ["no sound version" if sound is None else f"newest sound v{sound.number}"]
    if attempt is not None:
        second.append(_resumed_short(attempt))
    first = [f"**{plain(_status(report), 20)}**", f"step {count(report.progress.step)}"]
    told = _newest_value(report)
    if told is not None and (told.startswith("loss ") or _fits([*first, told])):
        first.append(told)
    return " · ".join(first) + "  \n" + " · ".join(second)


def _fits(line: list[str]) -> bool:
    return len(" · ".join(line).replace("*", "")) <= _MAX_HEADLINE


def _status(report: RunReport) -> str:
    return report.status.replace("_", " ")


def _named(version: VersionRow) -> str:
    return f"version {version.number} (step {count(version.step)})"


def _resumed_short(attempt: AttemptRow) -> str:
    if attempt.undecided:
        return "no version chosen"
    if attempt.resumed_from is None:
        return "went on" if attempt.restarted else "started from nothing"
    verb = "went on after" if attempt.restarted else "resumed from"
    name = attempt.resumed_from
    return f"{verb} {plain(name, 80) if '@' in name else f'v{plain(name, 20)}'}"


def _progress(report: RunReport) -> str:
    progress, value = report.progress, _newest_value(report)
    of = "" if progress.epochs_wanted is None else f" of {progress.epochs_wanted}"
    told = f"step {count(progress.step)}, epoch {progress.epoch}{of}"
    return told if value is None else f"{told}, {value}"


def _newest_value(report: RunReport) -> str | None:
    """The loss; of a run that tells none, the first of its other metrics."""
    loss = _newest(report, "loss", report.curve)
    if loss is not None:
        return f"loss {real(loss)}"
    other = next(iter(metrics_to_draw(report)), None)
    value = None if other is None else _newest(report, other, report.series[other])
    return None if other is None or value is None else f"{plain(other, 40)} {real(value)}"


def _newest(
    report: RunReport, metric: str, points: Sequence[tuple[int, float, int]]
) -> float | None:
    """Of the newest attempt that told one: the highest step counts, not the lowest value."""
    if points:
        _, _, value = max((attempt, step, value) for step, value, attempt in points)
        return value
    return next((v.metrics[metric] for v in reversed(report.versions) if metric in v.metrics), None)


def _summary(report: RunReport) -> str:
    sound, attempt = report.newest_sound, report.last_attempt
    status = plain(_status(report), 40)
    if attempt is not None:
        status += f" (attempt {attempt.number}, started {moment(attempt.started_at)})"
    rows = [
        ("Run", f"**{plain(report.run, 120)}**"),
        ("Status", status),
        ("Progress", _progress(report)),
        ("Newest sound version", "none yet" if sound is None else _named(sound)),
        ("Saved", _saves(report)),
        ("Store", code(report.url)),
        ("As of", f"{moment(report.generated_at)}; all times here are UTC"),
    ]
    if report.forked_from is not None:
        rows.insert(1, ("Forked from", plain(report.forked_from, 120)))
    return "\n".join(f"- {name}: {value}" for name, value in rows)


def _saves(report: RunReport) -> str:
    if not report.versions:
        return "nothing yet"
    total = sum(v.bytes for v in report.versions if v.status != "swept")
    told = f"{_versions(len(report.versions))}, {bytes_text(total)}"
    times = [v.duration_s for v in report.versions if v.duration_s is not None]
    rates = [v.throughput_bytes_s for v in report.versions if v.throughput_bytes_s is not None]
    if times and all(map(math.isfinite, times)):
        told += f"; a save takes {duration(statistics.median(times))}"
    if rates and all(map(math.isfinite, rates)):
        told += f" at {bytes_text(statistics.median(rates))}/s"
    return told + (" (medians)" if times or rates else "")


def _versions(number: int) -> str:
    return f"{count(number)} version{'' if number == 1 else 's'}"


def _damage(report: RunReport) -> str | None:
    if not report.damaged_slots:
        return None
    slots = ", ".join(map(str, report.damaged_slots[:_MAX_LINES]))
    more = ", …" if len(report.damaged_slots) > _MAX_LINES else ""
    return (
        f"> **Damaged log slots: {slots}{more}.** What they said is unknown, so versions below them are validated again "
        f"and nothing is deleted. {code(f'pawl verify {report.run}')} says more."
    )


def _resumed(report: RunReport) -> str | None:
    """The last attempt's choice in words."""
    attempt = report.last_attempt
    if attempt is None:
        return None
    told = [_choice(report, attempt)]
    names = [plain(name, 80) for name, _ in attempt.passed_over]
    if names:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        told.append(f"Passed over, for the reasons below: {', '.join(names[:_MAX_NAMES])}{more}.")
    if attempt.steps_lost is not None and attempt.number > 1 and not attempt.restarted:
        told.append(_lost(attempt))
    return " ".join(told)


def _choice(report: RunReport, attempt: AttemptRow) -> str:
    if attempt.undecided:
        return _undecided(attempt)
    if attempt.restarted:
        return _went_on(report, attempt)
    if attempt.resumed_from is None:
        nothing = "no version could be resumed" if report.versions else "there was no version yet"
        if attempt.asked is not None:
            nothing = f"so it was asked for (resume: {plain(attempt.asked, 80)})"
        return f"Attempt {attempt.number} started from nothing" + (
            f": {nothing}." if attempt.number > 1 else "."
        )
    text = f"Attempt {attempt.number} resumed from {_start(report, attempt.resumed_from, attempt)}"
    if "@" in attempt.resumed_from:
        return f"{text}, a version of another run."
    if attempt.asked is not None:
        return f"{text}: so it was asked for (resume: {plain(attempt.asked, 80)}). What was newer is set aside."
    rung = "" if attempt.required is None else f" at rung {plain(attempt.required, 20)} or above"
    return f"{text}: the newest version{rung} whose every byte was read back and holds."


def _start(report: RunReport, name: str, attempt: AttemptRow) -> str:
    step = next((v.step for v in report.versions if str(v.number) == name), None)
    step = attempt.resume_step if step is None else step
    return f"**{reference(name)}**" + ("" if step is None else f" (step {count(step)})")


def _undecided(attempt: AttemptRow) -> str:
    if attempt.outcome is None:
        return f"Attempt {attempt.number} has not chosen yet what to resume."
    return f"What attempt {attempt.number} resumed is not recorded: it ended before it had chosen, or the record is damaged."


def _went_on(report: RunReport, attempt: AttemptRow) -> str:
    name = attempt.resumed_from
    after = "" if name is None else f" after {_start(report, name, attempt)}"
    return (
        f"Attempt {attempt.number} went on{after} where attempt {attempt.number - 1} was: the checkpoint actor was started "
        "again, training did not stop."
    )


def _lost(attempt: AttemptRow) -> str:
    steps = attempt.steps_lost or 0
    told = f"At least {count(steps)} step{' is' if steps == 1 else 's are'} done again"
    if steps == 0:
        told = "No saved step is done again"
    if attempt.seconds_lost is not None:
        told += f"; {duration(attempt.seconds_lost)} of work and standstill are lost"
    return f"{told}."
