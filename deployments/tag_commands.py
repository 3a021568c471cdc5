"""`pawl tag`, `untag`, `tags`: names for versions, moved atomically, with their history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from deployments.cli_options import (
    json_option,
    metric_option,
    mode_option,
    named_version,
    print_json,
    readable,
    storage_option,
)
from deployments.example_command import command
from deployments.named_storage import storage_at
from deployments.text_tables import moment, printable, rung_text, table
from ray_workers.store import keys
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.log import RunLog
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.tags import (
    ANY_HOLDER,
    TagMove,
    check_tag_name,
    move_tag,
    protected_tags,
    refuse_protected,
    tag_history,
)

__all__ = ["tag_command", "tags_command", "untag_command"]

_PATIENCE_S = 60.0
_force = click.option("--force", is_flag=True, help="Also move a protected tag.")


@command(
    "tag",
    "pawl tag digits@best candidate",
    "pawl tag digits@12 production --force",
    "pawl tag digits@12 candidate --expect 9",
)
@click.argument("reference", metavar="RUN@V")
@click.argument("name")
@click.option(
    "--expect",
    metavar="N",
    help="Only if the tag is on version N now ('none': on no version).",
)
@_force
@storage_option
@json_option
@metric_option
@mode_option
def tag_command(reference: str, name: str, *, force: bool, as_json: bool, **options: Any) -> None:
    """Put the tag NAME on a version. It leaves the version it was on in the same moment.

    A tagged version is never retired. Protected tags (PAWL_PROTECTED_TAGS, default: production) need --force, or the
    promotion flow.
    """
    if not force:
        refuse_protected(check_tag_name(name), protected_tags())
    named = named_version(
        reference, options["storage"], metric=options["metric"], mode=options["mode"]
    )
    version = _taggable(named.run, readable(named.run, named.version), force=force)
    log = RunLog(named.store, named.run, by=this_process(), patience_s=_PATIENCE_S)
    move = move_tag(
        log,
        name,
        version.name,
        expects=_expected(options["expect"]),
        required=None if force else "committed",
    )
    if as_json:
        print_json(None if move is None else move.to_json())
    elif move is None:
        click.echo(f"{named.run}@{version.number} has the tag {name} already.")
    else:
        click.echo(f"{named.run}@{version.number} is {name} now{_formerly(move)}.")


@command("untag", "pawl untag digits candidate")
@click.argument("run")
@click.argument("name")
@_force
@storage_option
@json_option
def untag_command(run: str, name: str, *, storage: str, force: bool, as_json: bool) -> None:
    """Take the tag NAME off."""
    if not force:
        refuse_protected(name, protected_tags())
    store = storage_at(storage).open().store
    read_run(store, run)
    log = RunLog(store, keys.check_run_name(run), by=this_process(), patience_s=_PATIENCE_S)
    move = move_tag(log, name, None)
    if as_json:
        print_json(None if move is None else move.to_json())
    elif move is not None:
        click.echo(f"{run}@{move.before} is not {printable(name)} any more.")


@command("tags", "pawl tags digits", "pawl tags digits --history --json")
@click.argument("run")
@click.option("--history", is_flag=True, help="Every move of every tag, oldest first.")
@storage_option
@json_option
def tags_command(run: str, *, storage: str, history: bool, as_json: bool) -> None:
    """List the tags of RUN, or with --history how they moved."""
    keys.check_run_name(run)
    store = storage_at(storage).open().store
    state = read_run(store, run)
    if history:
        moves = tag_history(store, run)
        if as_json:
            print_json([move.to_json() for move in moves])
        else:
            click.echo(_history_text(moves, run))
        return
    if as_json:
        print_json([_row_json(name, state) for name in sorted(state.tags)])
    else:
        click.echo(_tags_text(state))


def _taggable(run: str, version: VersionState, *, force: bool) -> VersionState:
    if version.quarantine is not None and not force:
        raise InvalidInputError(
            f"{run}@{version.number} is quarantined: {version.quarantine}. --force tags it all the same."
        )
    return version


def _expected(expect: str | None) -> int | None:
    if expect is None:
        return ANY_HOLDER
    if expect == "none":
        return None
    if not expect.isdecimal():
        raise InvalidInputError(f"--expect {expect!r} is no version number; or say 'none'.")
    return int(expect)


def _formerly(move: TagMove) -> str:
    return "" if move.before is None else f", and @{move.before} is not any more"


def _row_json(name: str, state: RunState) -> dict[str, object]:
    """Step and rung are None when the version is lost: its commit record is damaged."""
    version = state.versions.get(state.tags[name])
    return {
        "name": name,
        "version": state.tags[name],
        "step": None if version is None else version.step,
        "rung": None if version is None else version.rung,
        "protected": name in protected_tags(),
    }


def _tags_text(state: RunState) -> str:
    if not state.tags:
        return f"Run {state.run!r} has no tag."
    protected = protected_tags()
    cells = [
        [printable(name), *_holder_cells(state, number), "protected" if name in protected else ""]
        for name, number in sorted(state.tags.items())
    ]
    return table(("TAG", "VERSION", "STEP", "RUNG", ""), cells, right=(1, 2))


def _holder_cells(state: RunState, number: int) -> list[str]:
    version = state.versions.get(number)
    if version is None:
        return [f"{number} (lost)", "-", "-"]
    return [str(number), str(version.step), rung_text(version.rung)]


def _history_text(moves: Sequence[TagMove], run: str) -> str:
    if not moves:
        return f"No tag of run {run!r} was ever set."
    cells = [
        [
            moment(move.at),
            printable(move.name),
            "-" if move.before is None else str(move.before),
            "-" if move.version is None else str(move.version),
            printable(move.by.get("host", "-")),
        ]
        for move in moves
    ]
    return table(("MOVED (UTC)", "TAG", "FROM", "TO", "HOST"), cells, right=(2, 3))
