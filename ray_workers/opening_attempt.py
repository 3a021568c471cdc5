"""From a request to an open attempt: fork, rollback and start over first, then the fence (FORMAT.md §9).

Who may start, or roll back, while another attempt is open is decided inside the append, so that of two that start at
once one is refused, and has closed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_workers.forking import (
    PinnedFork,
    check_usable,
    origin_of,
    pin_origin,
    release_if_beaten,
)
from ray_workers.resume import ResumeSpec
from ray_workers.store.attempts import (
    create_run,
    process_is_gone,
    read_run,
    roll_back,
    start_attempt,
)
from ray_workers.store.errors import (
    InvalidInputError,
    RunBusyError,
    RunNotFoundError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.rules import check_fence
from ray_workers.store.run_state import AttemptState, RunState, VersionState
from ray_workers.store.versions import best_version, find_version

__all__ = ["Applicant", "check_not_overtaken", "final_version", "open_attempt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Who wants to start, and what it knows of others."""

    flow_run_id: str
    run_count: int
    by: Mapping[str, Any]
    takeover: bool
    still_running: Callable[[AttemptState], str | None]
    """How the orchestrator names the attempt if it holds it to be running; None if it does not."""


def open_attempt(
    store: ObjectStore, run: str, spec: ResumeSpec, applicant: Applicant
) -> tuple[RunLog, int]:
    """The run's log, and the fence of the attempt that now owns the run.

    Raises:
        RunBusyError: another attempt runs under this name, and no takeover was asked for.
        VersionNotFoundError, RunNotFoundError, InvalidInputError: what `spec` names is not there, or does not fit.
        FenceLostError: a later try of the same flow run is already at work, or this process lost the run to another.
    """

    def allow(state: RunState) -> None:
        check_not_overtaken(state, applicant)
        _refuse_if_busy(state, applicant)

    fork = _fork(store, run, spec, applicant)
    log = create_run(
        store, run, by=applicant.by,
        origin=None if fork is None else fork.origin,
        run_id=None if fork is None else fork.child_run_id,
    )  # fmt: skip
    if fork is not None:
        # Somebody may have been quicker: then this attempt goes on with their run, if it is the same fork.
        release_if_beaten(store, fork, log.state, applicant.by)
        _check_same_fork(store, log.state, fork.origin.run)
    allow(log.refresh())
    _go_back(store, log, spec, applicant, allow)
    fence = start_attempt(
        log, flow_run_id=applicant.flow_run_id, run_count=applicant.run_count, allow=allow
    )
    return log, fence


def check_not_overtaken(state: RunState, applicant: Applicant) -> None:
    """Raise `FenceLostError` if another flow run took the run over from this very process.

    The process is here again because its flow retries: taking the run back would make two flow runs chase each other.
    The same flow run started again in another process was started again by somebody, and may.
    """
    newest = max(state.attempts.values(), key=lambda a: a.fence, default=None)
    if newest is None or newest.flow_run_id == applicant.flow_run_id:
        return
    for mine in state.attempts.values():
        if mine.flow_run_id == applicant.flow_run_id and dict(mine.by) == dict(applicant.by):
            check_fence(state, mine.fence)


def final_version(state: RunState) -> VersionState | None:
    """What the run ended with, when its last attempt completed; None when it did not, or when that version is lost.

    An older version that holds up is no substitute: the steps between the two are to be done again.
    """
    last = max(state.attempts.values(), key=lambda a: a.fence, default=None)
    if last is None or last.outcome != "completed":
        return None
    own = (v for v in state.newest_first() if v.number == last.last_commit or not v.abandoned)
    final = next(own, None)
    if final is None or not final.candidate:
        return None
    # A damaged slot above it may have held the commit of a newer one, unless an attempt has looked since.
    hidden = any(slot > max(final.slot, last.fence) for slot in state.damaged)
    return None if hidden else final


def _refuse_if_busy(state: RunState, applicant: Applicant) -> None:
    other = state.open_attempt
    if other is None or other.flow_run_id == applicant.flow_run_id:
        return
    if applicant.takeover and not _is_retry(state, applicant):
        return
    if process_is_gone(other.by):
        return
    name = applicant.still_running(other)
    if name is None:
        return
    raise RunBusyError(
        f"Run {state.run!r} is being trained by {name} (attempt {other.run_count}, started {other.at} on "
        f"{other.by.get('host', 'an unknown host')}). Wait for it, choose another run name, or start with takeover to "
        "end it.",
        run=state.run,
        flow_run_id=other.flow_run_id,
    )


def _is_retry(state: RunState, applicant: Applicant) -> bool:
    """The flow run was here before: what it asked for at first (fork, rollback, fresh start, takeover) is done already."""
    return any(a.flow_run_id == applicant.flow_run_id for a in state.attempts.values())


def _go_back(
    store: ObjectStore,
    log: RunLog,
    spec: ResumeSpec,
    applicant: Applicant,
    allow: Callable[[RunState], None],
) -> None:
    state = log.state
    if _is_retry(state, applicant) or not state.versions:
        return
    if spec.mode == "never":
        roll_back(log, None, allow=allow)
    elif spec.mode == "version" and spec.run == state.run and spec.version is not None:
        version = find_version(state, spec.version, best=best_version(store, state.run))
        check_usable(state.run, version)
        newer = any(v.number > version.number and not v.abandoned for v in state.versions.values())
        if newer or version.abandoned:
            roll_back(log, version.name, allow=allow)


def _fork(
    store: ObjectStore, run: str, spec: ResumeSpec, applicant: Applicant
) -> PinnedFork | None:
    """For a fork that does not exist yet: pin the origin's version; else check what is asked for, and None."""
    if spec.mode != "version" or spec.run is None or spec.version is None:
        return None
    existing = _existing(store, run)
    if spec.run == run:
        if existing is None:
            raise RunNotFoundError(
                f"There is no run {run!r} to resume version {spec.version!r} of."
            )
        find_version(existing, spec.version, best=best_version(store, run))
        return None
    if existing is not None:
        _check_same_fork(store, existing, spec.run)
        return None
    return pin_origin(store, run, run=spec.run, version=spec.version, by=applicant.by)


def _existing(store: ObjectStore, run: str) -> RunState | None:
    try:
        state = read_run(store, run)
    except RunNotFoundError:
        return None
    return state if state.exists else None


def _check_same_fork(store: ObjectStore, existing: RunState, wanted: str) -> None:
    origin = origin_of(store, existing)
    if origin is None or origin.run != wanted:
        raise InvalidInputError(
            f"Run {existing.run!r} exists and was not forked from run {wanted!r}: choose another run name for the fork, "
            f"or resume {existing.run!r} itself."
        )
