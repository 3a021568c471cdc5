"""What each record may be appended on: the rules of FORMAT.md §6, checked on the fold up to the slot before.

`check` is pure. Because an append takes the slot right above the fold it was checked on, every rule holds serially,
without a lock.
"""

from __future__ import annotations

from collections.abc import Callable
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
    OriginDropped,
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
from ray_workers.store.errors import FenceLostError, NewerFormatError, RuleRefusedError
from ray_workers.store.run_state import RunState, VersionState, rung_at_least

__all__ = ["check", "check_fence"]


def check(state: RunState, body: Body) -> None:
    """Raise unless `body` may stand in the slot above `state`.

    Raises:
        FenceLostError: the writer's fence is not the open one.
        NewerFormatError: the log holds kinds this program does not know, so it must not write.
        RuleRefusedError: any other rule does not hold.
    """
    if state.unknown:
        raise NewerFormatError(
            f"The log of run {state.run!r} holds records of unknown kind ({', '.join(state.unknown[:3])}): a newer "
            "Pawl wrote here. Upgrade Pawl; this one reads the run but writes nothing to it."
        )
    if not isinstance(body, RunCreated) and not _exists_for(state, body):
        raise _refused(state, body, "the run does not exist")
    _RULES[type(body)](state, body)


def _exists_for(state: RunState, body: Body) -> bool:
    """A deleted run is still swept, and repaired for that."""
    if isinstance(body, Swept | Repaired):
        return state.run_id is not None
    return state.exists


def check_fence(state: RunState, fence: int) -> None:
    """Raise `FenceLostError` unless `fence` is open; the error says who holds the run now."""
    if state.open_fence == fence:
        return
    own = state.attempts.get(fence)
    newest = state.open_attempt or max(state.attempts.values(), key=lambda a: a.fence, default=None)
    if newest is not None and newest.fence > fence:
        why = (
            f"flow run {newest.flow_run_id} (attempt {newest.run_count}) took over with fence {newest.fence} "
            f"at {newest.at}"
        )
    elif own is not None and own.outcome is not None:
        why = f"it was ended as {own.outcome} at {own.ended_at}"
    else:
        why = "the record that held it is damaged, or the run was rolled back"
    raise FenceLostError(
        f"Attempt with fence {fence} no longer owns run {state.run!r}: {why}. It commits nothing more; what it had "
        "committed stays.",
        fence=fence,
        by=None if newest is None else _holder(newest.flow_run_id, newest.run_count, newest.fence),
    )


def _holder(flow_run_id: str, run_count: int, fence: int) -> dict[str, Any]:
    return {"flow_run_id": flow_run_id, "run_count": run_count, "fence": fence}


def _refused(state: RunState, body: Body, why: str) -> RuleRefusedError:
    return RuleRefusedError(
        f"Run {state.run!r} refuses {body.kind}: {why}.", run=state.run, rule=body.kind
    )


def _known(state: RunState, body: Body, name: VersionName) -> VersionState:
    version = state.find(name)
    if version is None:
        raise _refused(
            state,
            body,
            f"version {name.number} with manifest {name.manifest[:12]} is not in the log",
        )
    return version


def _not_condemned(state: RunState, body: Body, name: VersionName) -> VersionState:
    version = _known(state, body, name)
    if not version.readable:
        raise _refused(state, body, f"version {name.number} is {version.status}")
    return version


def _run_created(state: RunState, body: RunCreated) -> None:
    if state.exists:
        raise _refused(state, body, "a run of this name exists")


def _attempt_started(state: RunState, body: AttemptStarted) -> None:
    ours = (body.run_count, body.incarnation)
    for attempt in state.attempts.values():
        if (
            attempt.flow_run_id == body.flow_run_id
            and (attempt.run_count, attempt.incarnation) >= ours
        ):
            raise FenceLostError(
                f"Attempt {body.run_count}.{body.incarnation} of flow run {body.flow_run_id} comes too late: attempt "
                f"{attempt.run_count}.{attempt.incarnation} of the same flow run already holds fence "
                f"{attempt.fence} of run {state.run!r}.",
                fence=None,
                by=_holder(attempt.flow_run_id, attempt.run_count, attempt.fence),
            )


def _fence_is_open(state: RunState, body: AttemptAdopted | AttemptEnded) -> None:
    check_fence(state, body.fence)


def _resume_chosen(state: RunState, body: ResumeChosen) -> None:
    check_fence(state, body.fence)
    if body.version is None or body.origin is not None:
        return
    version = _not_condemned(state, body, body.version)
    if not version.candidate:
        why = version.quarantine or "abandoned by a rollback"
        raise _refused(state, body, f"version {version.number} is no candidate: {why}")
    if not rung_at_least(version.rung, body.required):
        raise _refused(
            state, body, f"version {version.number} is {version.rung}, {body.required} is required"
        )


def _commit(state: RunState, body: Commit) -> None:
    check_fence(state, body.fence)
    last_step = state.attempts[body.fence].last_step
    if body.step <= last_step:
        raise _refused(
            state,
            body,
            f"step {body.step} is not above step {last_step}, committed before by this attempt",
        )
    if body.number != state.next_number:
        raise _refused(
            state, body, f"the next version number is {state.next_number}, not {body.number}"
        )
    if body.base is None:
        return
    base = _not_condemned(state, body, body.base)
    if base.bad_bytes:
        raise _refused(state, body, f"the bytes of its base, version {base.number}, are bad")
    if any(slot > base.slot for slot in state.damaged):
        raise _refused(state, body, f"a damaged slot lies above its base, version {base.number}")


def _verdict(state: RunState, body: Verdict) -> None:
    for name in body.versions:
        _not_condemned(state, body, name)


def _tagged(state: RunState, body: Tagged) -> None:
    present = state.tags.get(body.name)
    expected = None if body.expects is None else body.expects.number
    if body.expects is not None and body.expects.number in state.versions:
        _known(state, body, body.expects)
    # A tag whose version was lost names nothing any more, so it can be moved and removed either way.
    lost = expected is None and present not in state.versions
    if present != expected and not lost:
        raise _refused(state, body, f"tag {body.name!r} is on {present}, not on {expected}")
    if body.version is not None:
        _not_condemned(state, body, body.version)


def _rolled_back(state: RunState, body: RolledBack) -> None:
    if body.to is None:
        return
    version = _not_condemned(state, body, body.to)
    if version.quarantine is not None:
        raise _refused(
            state, body, f"version {version.number} is quarantined: {version.quarantine}"
        )


def _fork_pin(state: RunState, body: ForkPin) -> None:
    _not_condemned(state, body, body.version)


def _fork_released(state: RunState, body: ForkReleased) -> None:
    # Whether the child let go stands in the child's log: the releaser shows that (FORMAT.md §6).
    if body.child_run_id not in state.pins:
        raise _refused(state, body, f"fork {body.child!r} holds no pin")


def _retire(state: RunState, body: Retire) -> None:
    _damage_repaired(state, body)
    protected = state.protected()
    for name in body.versions:
        version = _known(state, body, name)
        if version.status != "live":
            raise _refused(state, body, f"version {name.number} is {version.status}")
        if name.number in protected:
            raise _refused(
                state, body, f"version {name.number} is protected: {protected[name.number]}"
            )


def _condemn(state: RunState, body: Condemn) -> None:
    _damage_repaired(state, body)
    protected = state.protected()
    for name in body.versions:
        version = _known(state, body, name)
        if version.status != "retired":
            raise _refused(state, body, f"version {name.number} is {version.status}, not retired")
        if name.number in protected:
            raise _refused(
                state, body, f"version {name.number} is protected: {protected[name.number]}"
            )


def _damage_repaired(state: RunState, body: Body) -> None:
    if state.unrepaired:
        slots = ", ".join(str(slot) for slot in state.unrepaired[:5])
        raise _refused(state, body, f"slot {slots} of its log is damaged and not yet repaired")


def _swept(state: RunState, body: Swept) -> None:
    for name in body.versions:
        if _known(state, body, name).status != "condemned":
            raise _refused(state, body, f"version {name.number} is not condemned")


def _run_deleted(state: RunState, body: RunDeleted) -> None:
    if state.pins:
        children = ", ".join(sorted(pin.child for pin in state.pins.values())[:5])
        raise _refused(state, body, f"forks still start from it: {children}")


def _repaired(state: RunState, body: Repaired) -> None:
    if body.slot not in state.unrepaired:
        raise _refused(state, body, f"slot {body.slot} is not damaged")


def _always(_: RunState, __: Body) -> None:
    """Filler and OriginDropped: what they need is checked by who appends them, in another log or slot."""


_RULES: dict[type[Body], Callable[[RunState, Any], None]] = {
    RunCreated: _run_created,
    AttemptStarted: _attempt_started,
    AttemptAdopted: _fence_is_open,
    AttemptEnded: _fence_is_open,
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
    Filler: _always,
    OriginDropped: _always,
}
