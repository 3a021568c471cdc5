"""What the read commands print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from deployments.text_tables import (
    brief,
    bytes_text,
    fine_seconds_text,
    moment,
    number_text,
    pairs,
    printable,
    rung_text,
    table,
)
from ray_workers.store.audit import AuditReport
from ray_workers.store.catalog import VersionEntry, VersionFacts
from ray_workers.store.run_listing import RunEntry
from ray_workers.store.run_state import RunState

__all__ = ["audit_text", "entry_text", "runs_text", "versions_text"]

_MAX_NUMBERS = 10


def runs_text(entries: Sequence[RunEntry], url: str) -> str:
    if not entries:
        return f"There is no run at {printable(url)} yet."
    heads = ("RUN", "STATUS", "VERSIONS", "NEWEST", "STEP", "RUNG", "SIZE", "ATTEMPTS", "UPDATED")
    return table(heads, [_run_row(entry) for entry in entries], right=(2, 3, 4, 6, 7))


def _run_row(entry: RunEntry) -> list[str]:
    facts = entry.to_json()
    name = printable(entry.run)
    if entry.state is None:
        return [name, f"unreadable: {printable(entry.problem)}", *[""] * 7]
    return [
        name,
        printable(facts["status"]),
        str(facts["versions"]),
        _or_dash(facts["newest"]),
        _or_dash(facts["step"]),
        rung_text(facts["rung"] or "-"),
        bytes_text(facts["bytes"]),
        str(facts["attempts"]),
        moment(facts["updated_at"]),
    ]


def versions_text(entries: Sequence[VersionEntry], run: str) -> str:
    if not entries:
        return f"Run {run!r} has no version yet."
    heads = (
        "VERSION",
        "STEP",
        "EPOCH",
        "LOSS",
        "RUNG",
        "SIZE",
        "NEW",
        "ATTEMPT",
        "COMMITTED (UTC)",
        "NOTE",
    )
    return table(heads, [_version_row(entry) for entry in entries], right=(0, 1, 2, 3, 5, 6, 7))


def _version_row(entry: VersionEntry) -> list[str]:
    version, facts = entry.version, entry.facts
    loss = None if facts is None else facts.metrics.get("loss")
    return [
        str(version.number),
        str(version.step),
        "-" if facts is None else str(facts.progress.epoch),
        "-" if loss is None else number_text(loss),
        rung_text(version.rung),
        bytes_text(version.bytes),
        "-" if entry.bytes_new is None else bytes_text(entry.bytes_new),
        str(entry.attempt),
        moment(version.at),
        _note(entry),
    ]


def _note(entry: VersionEntry) -> str:
    told = [printable(f"tag {tag}") for tag in entry.tags]
    if entry.status != "live":
        told.append(entry.status)
    if entry.facts is not None and entry.facts.interrupted:
        told.append(printable(f"interrupted by {entry.facts.interrupted}", 60))
    if entry.reason is not None:
        told.append(brief(entry.reason))
    return "; ".join(told)


def entry_text(entry: VersionEntry, state: RunState) -> str:
    version, facts = entry.version, entry.facts
    origin = state.origin
    title = click.style(f"{entry.run}@{version.number}", bold=True)
    rows = {
        "rung": rung_text(version.rung),
        "reason": printable(entry.reason, 1000) if entry.reason else "",
        "status": entry.status,
        "tags": printable(", ".join(entry.tags)),
        "step": str(version.step),
        "committed": f"{moment(version.at)} UTC, by attempt {entry.attempt} (fence {version.fence})",
        "size": _size_text(entry),
        "manifest": version.manifest,
        "forked from": "" if origin is None else f"{origin.run}@{origin.version.number}",
    }
    if facts is None:
        return f"{title}\n{pairs(rows)}"
    return f"{title}\n{pairs({**rows, **_facts_rows(entry.run, facts)})}\n\n{_shards_text(facts)}"


def _size_text(entry: VersionEntry) -> str:
    size, new = bytes_text(entry.version.bytes), entry.bytes_new
    return (
        size
        if new in (None, entry.version.bytes)
        else f"{size}, of which {bytes_text(new or 0)} new"
    )


def _facts_rows(run: str, facts: VersionFacts) -> dict[str, str]:
    progress, parent = facts.progress, facts.parent
    wanted = "" if progress.epochs_wanted is None else f" of {progress.epochs_wanted}"
    return {
        "epoch": f"{progress.epoch}{wanted}{', finished' if progress.finished else ''}",
        "parent": "" if parent is None else f"{parent.run or run}@{parent.number}",
        "world size": str(facts.world_size),
        "metrics": _joined({name: number_text(value) for name, value in facts.metrics.items()}),
        "config": _joined(facts.config),
        "timings": _joined(_timings(facts.durations)),
        "made with": _joined({n: v for n, v in facts.environment.items() if v}),
    }


def _joined(values: Mapping[str, object]) -> str:
    return printable(", ".join(f"{name} {value}" for name, value in values.items()), 1000)


_TIMINGS = {
    "staging_s": "training stood still",
    "upload_s": "upload",
    "durable_s": "until committed",
    "last_save_cost_s": "the save before cost",
    "mtbf_s": "between failures, expected",
    "save_cost_s": "a save costs",
    "interval_s": "interval chosen",
    "verify_s": "verify before resuming",
    "start_s": "start of the attempt",
    "restore_s": "restore",
    "warm_up_s": "first step",
}


def _timings(durations: Mapping[str, float]) -> dict[str, str]:
    """What was measured, in words; names that this list does not have stay as they are stored."""
    ordered = sorted(durations.items(), key=lambda item: (*_TIMINGS, item[0]).index(item[0]))
    return {_TIMINGS.get(name, name): fine_seconds_text(value) for name, value in ordered}


def _shards_text(facts: VersionFacts) -> str:
    rows = [
        [str(shard.rank), bytes_text(shard.bytes), printable(shard.digest), printable(shard.key)]
        for shard in facts.shards
    ]
    return table(("RANK", "SIZE", "DIGEST", "SHARD"), rows, right=(0, 1))


def audit_text(report: AuditReport) -> str:
    counts = (
        f"{report.records} log records, {report.caches} caches of them and {report.objects} objects"
    )
    size = f"{bytes_text(report.bytes)} of shards"
    lines = [f"{report.run}: read {counts} ({size}) of {_versions(report.versions)}."]
    if report.skipped:
        lines.append(f"Given up, and not read: {_versions(report.skipped)}.")
    for slot in report.damaged_slots:
        word = "repaired" if slot.repaired else _bad()
        lines.append(f"{word}  log slot {slot.slot}: {printable(slot.reason, 400)}")
    lines += [
        f"{_bad()}  cache of the log: {printable(bad.reason, 400)}" for bad in report.bad_caches
    ]
    lines += [
        f"{_bad()}  version {bad.version}: {printable(bad.reason, 400)}"
        for bad in report.bad_objects
    ]
    lines.append("Nothing is damaged." if report.good else _verdict(report))
    return "\n".join(lines)


def _verdict(report: AuditReport) -> str:
    hit = sorted({bad.version for bad in report.bad_objects if bad.version is not None})
    if hit:
        return f"Damaged: {_versions(hit)}. A run that resumes passes over what is damaged."
    return "The log is damaged, no version is: a run that resumes goes on around it."


def _versions(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"version {numbers[0]}"
    if len(numbers) > _MAX_NUMBERS:
        return f"{len(numbers)} versions"
    return f"versions {', '.join(map(str, numbers))}" if numbers else "no version"


def _bad() -> str:
    return click.style("BAD", fg="red", bold=True)


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
