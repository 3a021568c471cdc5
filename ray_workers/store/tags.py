"""Tags: names that people give to versions, moved in one record, with their history in the log (FORMAT.md §4, §6).

A tag protects its version: it is neither retired nor condemned while the tag is on it. Some tags are *protected
themselves*: they say what is served to others, so they move by promotion, or by force.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray_workers.store.bodies import Tagged, VersionName
from ray_workers.store.errors import InvalidInputError, RuleRefusedError, VersionNotFoundError
from ray_workers.store.fold import apply_damaged, apply_record
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record
from ray_workers.store.run_state import RUNGS, RunState, rung_at_least
from ray_workers.store.versions import COMPUTED

__all__ = [
    "ANY_HOLDER",
    "TagMove",
    "check_tag_name",
    "move_tag",
    "protected_tags",
    "refuse_protected",
    "tag_history",
]

_TAG = re.compile(r"[A-Za-z](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_RESERVED = frozenset({*COMPUTED, *RUNGS, "quarantined", "none", "auto", "never"})
_DEFAULT_PROTECTED = "production"

ANY_HOLDER = -1
"""Move the tag whatever version it is on now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagMove:
    """One move of one tag, as the log has it."""

    name: str
    version: int | None
    """None: the tag was taken off."""
    before: int | None
    at: str
    by: Mapping[str, Any]
    slot: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_tag_name(name: str) -> str:
    """Return `name` if a tag may be called so, else raise `InvalidInputError`."""
    if name in _RESERVED:
        raise InvalidInputError(f"{name!r} cannot be a tag: what it means is computed.")
    if not _TAG.fullmatch(name):
        raise InvalidInputError(
            f"{name[:80]!r} cannot be a tag: use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter and "
            "ending with a letter or digit."
        )
    return name


def protected_tags(environment: Mapping[str, str] | None = None) -> frozenset[str]:
    """Tags that move by promotion or by force alone: PAWL_PROTECTED_TAGS, separated by commas; default `production`."""
    known = os.environ if environment is None else environment
    named = known.get("PAWL_PROTECTED_TAGS", _DEFAULT_PROTECTED)
    return frozenset(part.strip() for part in named.split(",") if part.strip())


def refuse_protected(name: str, protected: frozenset[str]) -> None:
    """Raise `InvalidInputError` if `name` is protected."""
    if name in protected:
        raise InvalidInputError(
            f"The tag {name!r} is protected (PAWL_PROTECTED_TAGS): move it with the promotion flow, or with --force."
        )


def move_tag(
    log: RunLog,
    name: str,
    to: VersionName | None,
    *,
    expects: int | None = ANY_HOLDER,
    required: str | None = None,
) -> TagMove | None:
    """Put the tag on `to` (None: take it off) in one record; None if it is there already.

    Args:
        log: the run's log, writable.
        name: the tag.
        to: the version.
        expects: number of the version that the tag must be on now (None: on no version), or `ANY_HOLDER`.
        required: the rung that the version must have when the record is written, whatever was seen before; a quarantined
            version has none. None: whatever its rung.

    Raises:
        RuleRefusedError: the tag is not where `expects` says, or the version is given up or below `required`.
        VersionNotFoundError: the tag is to be taken off and there is none.
        InvalidInputError: the name is not legal.
    """
    if to is not None:
        check_tag_name(name)
    before: int | None = None

    def decide(state: RunState) -> Tagged | None:
        nonlocal before
        before = state.tags.get(name)
        if expects not in {ANY_HOLDER, before}:
            raise RuleRefusedError(
                f"The tag {name!r} of run {state.run!r} is on {_place(before)}, not on {_place(expects)}: look again, "
                "then decide.",
                run=state.run,
            )
        if to is None and before is None:
            raise VersionNotFoundError(f"Run {state.run!r} has no tag {name!r}.")
        if to is not None and required is not None:
            _check_rung(state, to, required)
        if to is not None and before == to.number:
            return None
        # A holder whose commit record was lost has no name any more: the tag counts as being on none (FORMAT.md §6).
        holder = None if before is None else state.versions.get(before)
        return Tagged(name=name, version=to, expects=None if holder is None else holder.name)

    log.refresh()
    record = log.append(decide)
    return None if record is None else _move(record, name, to, before)


def tag_history(store: ObjectStore, run: str) -> tuple[TagMove, ...]:
    """Every move of every tag of the run as it is now, oldest first. A move whose record is damaged is not known."""
    reader = LogReader(store, run)
    tail = reader.fold().slot
    state = RunState(run=run)
    moves: list[TagMove] = []
    for slot in reader.read_many(range(1, tail + 1)):
        if not isinstance(slot, Record):
            apply_damaged(state)
            continue
        body, run_id = slot.body, state.run_id
        before = state.tags.get(body.name) if isinstance(body, Tagged) else None
        apply_record(state, slot)
        if state.run_id != run_id:
            moves.clear()  # the name was taken by another run: its tags began anew
        if isinstance(body, Tagged) and state.head == slot.digest:
            moves.append(_move(slot, body.name, body.version, before))
    return tuple(moves)


def _move(record: Record, name: str, to: VersionName | None, before: int | None) -> TagMove:
    return TagMove(
        name=name,
        version=None if to is None else to.number,
        before=before,
        at=record.at,
        by=dict(record.by),
        slot=record.slot,
    )


def _check_rung(state: RunState, name: VersionName, required: str) -> None:
    """A version that the log does not know is left to the log's own rule."""
    version = state.find(name)
    if version is None or rung_at_least(version.rung, required):
        return
    why = f": {version.quarantine}" if version.quarantine else ""
    raise RuleRefusedError(
        f"Version {version.number} of run {state.run!r} is {version.rung}{why}; {required} is required. The tag stays "
        "where it is.",
        run=state.run,
    )


def _place(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"
