"""Records folded into the state of a run: pure, slot by slot (FORMAT.md §5)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ray_workers.store.bodies import (
    AttemptAdopted,
    AttemptEnded,
    AttemptStarted,
    Body,
    Commit,
    Condemn,
    Filler,
    ForkPin,
    ForkReleased,
    Repaired,
    ResumeChosen,
    Retire,
    RolledBack,
    RunCreated,
    RunDeleted,
    Swept,
    Tagged,
    Verdict,
    VersionName,
)
from ray_workers.store.records import Record
from ray_workers.store.run_state import RUNGS, AttemptState, PinState, RunState, VersionState

__all__ = ["apply_damaged", "apply_record", "is_contradiction", "is_effective", "prev_of_next"]

_DAMAGED_PREV = re.compile(r"damaged:([1-9][0-9]{0,19})")


def apply_damaged(state: RunState) -> None:
    """Fold the next slot as damaged, a hole or a Filler: what it held is unknown, so nothing may rest on it.

    A fence below it counts as lost, verdicts below it no longer promote, and what would delete is refused until a
    person appended Repaired (FORMAT.md §8).
    """
    state.slot += 1
    state.damaged += (state.slot,)
    state.unrepaired += (state.slot,)
    state.open_fence = None
    for number, version in state.versions.items():
        if version.passed:
            state.versions[number] = replace(version, passed=())


def is_effective(state: RunState, record: Record) -> bool:
    """Whether the record in the next slot counts; otherwise it is void: it holds its slot and has no effect."""
    if record.kind == RunCreated.kind and record.prev is None:
        return state.run_id is None
    if state.run_id is None:
        return state.damage_above_head
    if record.kind == RunCreated.kind:
        # A damaged slot may have held the RunDeleted that allowed it.
        return (state.deleted or bool(state.damaged)) and _continues(state, record)
    if record.run_id != state.run_id:
        return _begins_unseen(state, record)
    return _continues(state, record)


def _begins_unseen(state: RunState, record: Record) -> bool:
    """Whether the damage right above a deleted run must have held the RunCreated of the run that this record is of."""
    return state.deleted and state.damage_above_head and record.kind != Filler.kind


def is_contradiction(state: RunState, record: Record) -> bool:
    """Whether a record of this very run continues another one than the log now has below it."""
    own = record.run_id == state.run_id and record.kind != Filler.kind
    return own and not _continues(state, record)


def prev_of_next(state: RunState) -> str | None:
    """What the next record names as the one that it continues."""
    return f"damaged:{state.damaged[-1]}" if state.damage_above_head else state.head


def _continues(state: RunState, record: Record) -> bool:
    """Nothing but voids stands between the record and what it continues, as its writer and this reader see it."""
    if state.damage_above_head or record.prev == state.head:
        return True
    said = _DAMAGED_PREV.fullmatch(record.prev or "")
    return said is not None and state.head_slot <= int(said[1]) <= state.slot


def apply_record(state: RunState, record: Record) -> None:
    """Fold the record that stands in slot `state.slot + 1`."""
    if record.kind == Filler.kind and record.run_id == state.run_id:
        apply_damaged(state)
        return
    effective = is_effective(state, record)
    state.slot += 1
    if not effective:
        return
    if record.run_id != state.run_id:
        _begin(state, record.run_id)
    state.head, state.head_slot = record.digest, record.slot
    if record.body is None:
        state.unknown += (record.kind,)
        return
    _EFFECTS[type(record.body)](state, record, record.body)


def _run_created(state: RunState, record: Record, body: RunCreated) -> None:
    _begin(state, record.run_id)
    state.origin, state.created_at = body.origin, record.at


def _begin(state: RunState, run_id: str) -> None:
    """A run, or another one; of one whose RunCreated is lost no more is known than its id."""
    # Numbers and fences go on over a deleted run of the same name: they are slots of the same log.
    state.run_id, state.origin, state.created_at = run_id, None, None
    state.deleted, state.open_fence = False, None
    state.attempts, state.versions, state.tags, state.pins = {}, {}, {}, {}


def _attempt_started(state: RunState, record: Record, body: AttemptStarted) -> None:
    state.open_fence = record.slot
    state.attempts[record.slot] = AttemptState(
        fence=record.slot, flow_run_id=body.flow_run_id, run_count=body.run_count,
        incarnation=body.incarnation, by=dict(record.by), at=record.at,
    )  # fmt: skip


def _attempt_adopted(state: RunState, record: Record, body: AttemptAdopted) -> None:
    attempt = state.attempts.get(body.fence)
    if attempt is not None:
        state.attempts[body.fence] = replace(
            attempt,
            flow_run_id=body.flow_run_id,
            run_count=body.run_count,
            by=dict(record.by),
        )


def _attempt_ended(state: RunState, record: Record, body: AttemptEnded) -> None:
    if state.open_fence == body.fence:
        state.open_fence = None
    attempt = state.attempts.get(body.fence)
    if attempt is not None and attempt.outcome is None:
        state.attempts[body.fence] = replace(
            attempt, outcome=body.outcome, reason=body.reason, ended_at=record.at
        )


def _resume_chosen(state: RunState, record: Record, body: ResumeChosen) -> None:
    attempt = state.attempts.get(body.fence)
    if attempt is not None:
        state.attempts[body.fence] = replace(
            attempt, resume=body.version, resume_origin=body.origin, resume_at=record.at,
            passed_over=body.passed_over, required=body.required,
        )  # fmt: skip
    if body.version is not None and body.origin is None:
        _revive(state, body.version)


def _commit(state: RunState, record: Record, body: Commit) -> None:
    state.highest_number = max(state.highest_number, body.number)
    state.versions[body.number] = VersionState(
        number=body.number, manifest=body.manifest, fence=body.fence, slot=record.slot, step=body.step,
        bytes=body.bytes, base=body.base.number if body.base else None, at=record.at,
    )  # fmt: skip
    attempt = state.attempts.get(body.fence)
    if attempt is not None:
        state.attempts[body.fence] = replace(attempt, last_commit=body.number, last_step=body.step)


def _verdict(state: RunState, record: Record, body: Verdict) -> None:
    for name in body.versions:
        state.highest_number = max(state.highest_number, name.number)
        version = state.find(name)
        if version is not None:
            judged = _judged(version, body)
            if body.check in ("verified", "bytes"):
                judged = replace(judged, verified_slot=record.slot)
            state.versions[name.number] = judged


def _judged(version: VersionState, body: Verdict) -> VersionState:
    if body.check == "release":
        return replace(version, quarantine=None, bad_bytes=False, passed=())
    if not body.passed:
        reason = version.quarantine or body.reason or f"check {body.check!r} failed"
        return replace(
            version, quarantine=reason, bad_bytes=version.bad_bytes or body.check == "bytes"
        )
    norm, rate = (body.evidence.get(name) for name in ("parameter_norm", "update_rate"))
    version = replace(
        version,
        norm=_measured(norm, version.norm),
        update_rate=_measured(rate, version.update_rate),
    )
    if body.check in RUNGS and body.check not in version.passed:
        return replace(version, passed=(*version.passed, body.check))
    return version


def _measured(value: Any, before: float | None) -> float | None:
    """Evidence is anybody's JSON: what is no number that fits leaves what was known."""
    if not isinstance(value, int | float):
        return before
    try:
        return float(value)
    except OverflowError:
        return before


def _tagged(state: RunState, _: Record, body: Tagged) -> None:
    if body.version is None:
        state.tags.pop(body.name, None)
        return
    state.tags[body.name] = body.version.number
    _revive(state, body.version)


def _rolled_back(state: RunState, _: Record, body: RolledBack) -> None:
    state.open_fence = None
    floor = body.to.number if body.to else 0
    for number, version in state.versions.items():
        if number > floor and not version.abandoned:
            state.versions[number] = replace(version, abandoned=True)
        elif number == floor and version.abandoned:
            state.versions[number] = replace(version, abandoned=False)


def _fork_pin(state: RunState, _: Record, body: ForkPin) -> None:
    state.pins[body.child_run_id] = PinState(
        child=body.child, child_run_id=body.child_run_id, version=body.version.number
    )
    _revive(state, body.version)


def _fork_released(state: RunState, _: Record, body: ForkReleased) -> None:
    state.pins.pop(body.child_run_id, None)


def _retire(state: RunState, record: Record, body: Retire) -> None:
    live = [name for name in body.versions if (v := state.find(name)) and v.status == "live"]
    _set_status(state, body.versions, {"live": "retired"})
    for name in live:
        retired = state.versions[name.number]
        state.versions[name.number] = replace(retired, retired_slot=record.slot)


def _condemn(state: RunState, _: Record, body: Condemn) -> None:
    _set_status(state, body.versions, {"live": "condemned", "retired": "condemned"})


def _swept(state: RunState, _: Record, body: Swept) -> None:
    _set_status(state, body.versions, {"condemned": "swept"})


def _run_deleted(state: RunState, _: Record, __: RunDeleted) -> None:
    state.deleted, state.open_fence = True, None
    for number, version in state.versions.items():
        if version.readable:
            state.versions[number] = replace(version, status="condemned")


def _repaired(state: RunState, _: Record, body: Repaired) -> None:
    state.unrepaired = tuple(slot for slot in state.unrepaired if slot != body.slot)


def _nothing(_: RunState, __: Record, ___: Body) -> None:
    """OriginDropped changes nothing in this run's own state."""


def _set_status(state: RunState, names: tuple[VersionName, ...], moves: dict[str, str]) -> None:
    for name in names:
        state.highest_number = max(state.highest_number, name.number)
        version = state.find(name)
        if version is not None and version.status in moves:
            state.versions[name.number] = replace(version, status=moves[version.status])


def _revive(state: RunState, name: VersionName) -> None:
    version = state.find(name)
    if version is not None and version.status == "retired":
        state.versions[name.number] = replace(version, status="live")


_EFFECTS: dict[type[Body], Callable[[RunState, Record, Any], None]] = {
    RunCreated: _run_created,
    AttemptStarted: _attempt_started,
    AttemptAdopted: _attempt_adopted,
    AttemptEnded: _attempt_ended,
    ResumeChosen: _resume_chosen,
    Commit: _commit,
    Verdict: _verdict,
    Tagged: _tagged,
    RolledBack: _rolled_back,
    ForkPin: _fork_pin,
    ForkReleased: _fork_released,
    Retire: _retire,
    Condemn: _condemn,
    Swept: _swept,
    RunDeleted: _run_deleted,
    Repaired: _repaired,
}
_EFFECTS.update({cls: _nothing for cls in Body.__subclasses__() if cls not in _EFFECTS})
