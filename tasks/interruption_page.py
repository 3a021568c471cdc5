"""A retry explains itself: one section for every attempt but the first, with the picture above them."""

from __future__ import annotations

from ray_workers.explaining import Interruption, interruptions
from ray_workers.report import RunReport
from tasks.interruption_chart import interruption_chart
from tasks.markdown_text import code, count, duration, plain, short_reason
from tasks.svg import data_uri

__all__ = ["explanations"]

_MAX_SECTIONS = 8
_MAX_REASONS = 4
_WHAT = {
    "exception": "ended with an exception",
    "worker lost": "lost a worker",
    "node lost": "lost a node",
    "cluster lost": "lost its cluster",
    "saves failed": "ended because too many saves in a row had failed",
    "cancelled": "was cancelled or signalled",
    "Ctrl-C": "was stopped with Ctrl-C",
    "SIGTERM": "was told to end by its machine (SIGTERM)",
    "ended by Prefect": "was ended by Prefect, as when its server restarts and a concurrency limit's lease is lost",
    "time limit": "came to its time limit",
    "preempted": "was preempted",
    "resized": "saved, to go on with more workers",
    "crash": "crashed",
    "actor restarted": "lost its checkpoint actor, which was started again",
    "completed": "was complete",
}


def explanations(report: RunReport) -> str | None:
    """Markdown below the heading of its section; None before the second attempt."""
    found = interruptions(report)
    if not found:
        return None
    parts = []
    picture = interruption_chart(found)
    if picture is not None:
        parts.append(f"![Seconds lost by phase]({data_uri(picture)})")
    parts += [_section(item) for item in reversed(found[-_MAX_SECTIONS:])]
    if len(found) > _MAX_SECTIONS:
        left = len(found) - _MAX_SECTIONS
        parts.append(
            f"{count(left)} earlier ones not shown here; {code(f'pawl explain {report.run}')} lists them."
        )
    return "\n\n".join(parts)


def _section(item: Interruption) -> str:
    lines = [
        f"### Attempt {item.attempt}",
        "",
        f"- Attempt {item.before} (flow on host {plain(item.host, 40)}) {_WHAT[item.what]}{_place(item)}"
        + (f": {plain(item.detail, 240)}" if item.detail else "."),
        f"- Resumed: {_resumed(item)}",
    ]
    lines += [
        f"- Passed over version {plain(name, 40)}: {plain(short_reason(reason), 200)}"
        for name, reason in item.passed_over[:_MAX_REASONS]
    ]
    if item.went_on:
        return "\n".join([*lines, "- Steps and time lost: none"])
    steps = "unknown" if item.steps_lost is None else f"at least {count(item.steps_lost)}"
    lines.append(f"- Steps lost: {steps}")
    spent = ", ".join(f"{phase} {duration(s)}" for phase, s in item.seconds.items() if s)
    lines.append(f"- Time: {spent or 'unknown'} (together {duration(item.total)})")
    return "\n".join(lines)


def _place(item: Interruption) -> str:
    known = [] if item.rank is None else [f"rank {item.rank}"]
    known += [] if item.node is None else [f"node {plain(item.node, 60)}"]
    return f" ({', '.join(known)})" if known else ""


def _resumed(item: Interruption) -> str:
    at = "" if item.step is None else f", step {count(item.step)}"
    if item.went_on:
        place = "" if item.resumed is None else f" after version {plain(item.resumed, 60)}{at}"
        return f"nothing{place}: {plain(item.why, 200)}"
    if item.resumed is None:
        start = "" if item.undecided else ", it started from the beginning"
        return f"nothing{start}: {plain(item.why, 200)}"
    return f"version {plain(item.resumed, 60)}{at}: {plain(item.why, 200)}"
