"""`pawl lineage RUN`: attempts, versions, resumes and forks, drawn in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from deployments.cli_options import json_option, print_json, storage_option
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.text_tables import moment, printable
from ray_workers.store import keys
from ray_workers.store.attempts import read_run
from ray_workers.store.catalog import attempt_numbers
from ray_workers.store.run_listing import list_runs
from ray_workers.store.run_state import AttemptState, RunState, VersionState

__all__ = ["lineage_command", "lineage_text"]

_MARKS = {
    "committed": ("○", "yellow"), "verified": ("◎", "cyan"), "sound": ("●", "green"), "restorable": ("◉", "green"),
    "quarantined": ("✗", "red"),
}  # fmt: skip
_MAX_VERSIONS = 14

Fork = tuple[str, int]
"""Name of a run and the version of this run that it started from."""


@command("lineage", "pawl lineage digits", "pawl lineage digits --json")
@click.argument("run")
@storage_option
@json_option
def lineage_command(run: str, *, storage: str, as_json: bool) -> None:
    """Draw the attempts of RUN, what each committed, where it resumed, and the runs forked from it."""
    keys.check_run_name(run)
    store = storage_at(storage).open().store
    state = read_run(store, run)
    forks = [
        (entry.run, entry.state.origin.version.number)
        for entry in list_runs(store)
        if entry.state is not None
        and entry.state.origin is not None
        and (entry.state.origin.run, entry.state.origin.run_id) == (run, state.run_id)
    ]
    if as_json:
        print_json(_json(state, forks))
    else:
        click.echo(lineage_text(state, forks))


def lineage_text(state: RunState, forks: Sequence[Fork]) -> str:
    """One line an attempt: its versions from left to right, then how it ended."""
    lines = [click.style(state.run, bold=True)]
    if state.origin is not None:
        lines.append(f"╰─ forked from {state.origin.run}@{state.origin.version.number}")
    numbers = attempt_numbers(state)
    for fence, number in numbers.items():
        lines += _attempt_lines(state, fence, number)
    lines += [f"├┄ {printable(child)} is forked from version {origin}" for child, origin in forks]
    lines.append("")
    lines.append("  ".join(f"{_mark(rung)} {rung}" for rung in _MARKS))
    return "\n".join(lines)


def _attempt_lines(state: RunState, fence: int, number: int) -> Iterator[str]:
    attempt = state.attempts.get(fence)
    yield f"├─ attempt {number}  {_start(state, attempt)}"
    own = [state.versions[n] for n in sorted(state.versions) if state.versions[n].fence == fence]
    chain = "──".join(_version(version, state) for version in own[-_MAX_VERSIONS:])
    left_out = len(own) - _MAX_VERSIONS
    older = f"({left_out} older) ──" if left_out > 0 else ""
    yield f"│    {older}{chain or 'no version'}  {_end(state, attempt, fence)}"


def _start(state: RunState, attempt: AttemptState | None) -> str:
    if attempt is None:
        return "its start record is damaged"
    went_on = state.writer_before(attempt) is not None
    attempt = state.begun(attempt)
    if attempt.resume is None:
        return f"{'went on' if went_on else 'started'} {moment(attempt.at)}"
    origin = attempt.resume_origin
    name = f"{origin.run}@{attempt.resume.number}" if origin else f"version {attempt.resume.number}"
    if went_on:
        return f"went on after {name} at {moment(attempt.at)}, its checkpoint actor started again"
    over = f", passed over {', '.join(str(p.version.number) for p in attempt.passed_over)}"
    return f"resumed from {name} at {moment(attempt.at)}{over if attempt.passed_over else ''}"


def _version(version: VersionState, state: RunState) -> str:
    tags = ",".join(sorted(t for t, n in state.tags.items() if n == version.number))
    text = f"{_mark(version.rung)}{version.number}" + (f"[{printable(tags, 40)}]" if tags else "")
    gone = not version.readable or version.abandoned
    return click.style(text, dim=True) if gone else text


def _mark(rung: str) -> str:
    sign, colour = _MARKS.get(rung, ("?", None))
    return click.style(sign, fg=colour)


def _end(state: RunState, attempt: AttemptState | None, fence: int) -> str:
    if attempt is not None and attempt.outcome is not None:
        why = (
            f": {printable(attempt.reason, 80)}"
            if attempt.reason and attempt.outcome != "completed"
            else ""
        )
        return f"→ {printable(attempt.outcome)}{why}"
    return "→ running" if state.open_fence == fence else "→ lost"


def _begun(state: RunState, fence: int) -> AttemptState | None:
    attempt = state.attempts.get(fence)
    return None if attempt is None else state.begun(attempt)


def _json(state: RunState, forks: Sequence[Fork]) -> dict[str, Any]:
    origin = state.origin
    return {
        "run": state.run,
        "forked_from": None if origin is None else f"{origin.run}@{origin.version.number}",
        "attempts": [
            {
                "number": number,
                "fence": fence,
                "started_at": None if (a := _begun(state, fence)) is None else a.at,
                "resumed_from": None if a is None or a.resume is None else a.resume.number,
                "outcome": None if a is None else a.outcome,
                "versions": [n for n in sorted(state.versions) if state.versions[n].fence == fence],
            }
            for fence, number in attempt_numbers(state).items()
        ],
        "forks": [{"run": child, "from": number} for child, number in forks],
    }
