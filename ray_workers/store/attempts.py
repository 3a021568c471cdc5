"""Opening a run, and the life of an attempt in its log: started, ended, its fence (FORMAT.md §9)."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_workers.store import keys
from ray_workers.store.bodies import (
    AttemptAdopted,
    AttemptEnded,
    AttemptStarted,
    Body,
    RolledBack,
    RunCreated,
    RunOrigin,
    VersionName,
)
from ray_workers.store.errors import (
    InternalError,
    RuleRefusedError,
    RunNotFoundError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.manifest_parts import VersionRef
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.rules import check_fence
from ray_workers.store.run_state import RunState

__all__ = [
    "RAY_JOB",
    "RESUME",
    "TAKEOVER",
    "adopt_attempt",
    "create_run",
    "end_attempt",
    "process_is_gone",
    "process_lives_here",
    "read_run",
    "resumed_from",
    "roll_back",
    "run_names",
    "start_attempt",
    "start_incarnation",
    "start_successor",
    "this_process",
]

RAY_JOB = "ray_job"
"""Key in `by` of an attempt that trains as a Ray job: the job outlives the process that started it."""
TAKEOVER = "takeover"
"""Key in `by` of an attempt that was to end another one that lives, if there was one."""
RESUME = "resume"
"""Key in `by` of an attempt whose flow run was told where to begin: `never`, or `RUN@VERSION`."""
_PATIENCE_S = 120.0
_NAMESPACE = "pid_namespace"


def run_names(store: ObjectStore) -> Sequence[str]:
    """Names of the runs below the root, deleted ones included, sorted."""
    return store.list_folders(keys.RUNS_PREFIX)


def read_run(store: ObjectStore, run: str) -> RunState:
    """The state of an existing run, without writing anything. Raises `RunNotFoundError`."""
    state = LogReader(store, run).fold()
    if state.slot == 0:
        known = ", ".join(run_names(store)[:10]) or "none"
        raise RunNotFoundError(f"There is no run {run!r} at {store.url}. Runs there: {known}.")
    return state


def create_run(
    store: ObjectStore,
    run: str,
    *,
    by: Mapping[str, Any],
    origin: RunOrigin | None = None,
    run_id: str | None = None,
) -> RunLog:
    """Open the run's log, creating the run when there is none; who loses that race uses the winner's.

    Args:
        store: where the run lives.
        run: its name.
        by: who writes.
        origin: the version of another run that a new run is forked from.
        run_id: the id of a new run; by default a fresh one.
    """
    log = RunLog(store, run, by=by, patience_s=_PATIENCE_S)
    new_id = run_id or uuid.uuid4().hex

    def decide(state: RunState) -> RunCreated | None:
        return None if state.exists else RunCreated(run_id=new_id, origin=origin)

    try:
        log.append(decide)
    except RuleRefusedError:
        if not log.refresh().exists:
            raise
    return log


def start_attempt(
    log: RunLog,
    *,
    flow_run_id: str,
    run_count: int,
    incarnation: int = 0,
    allow: Callable[[RunState], None] = lambda _: None,
) -> int:
    """Take the fence: from here on no older attempt of the run can commit, even if it is still alive.

    Args:
        log: the run's log.
        flow_run_id: the orchestrator's id of the flow run; stable over its retries.
        run_count: which try of that flow run this is, from 1.
        incarnation: which writer of that try, from 0; given by the driver, never computed.
        allow: raises if the attempt must not start on this state; asked again whenever another record came first, so
            of two that start at once the second sees the first.

    Returns:
        The fence: the slot of the attempt's own start record.

    Raises:
        FenceLostError: a later try of the same flow run already holds a fence.
    """
    body = AttemptStarted(flow_run_id=flow_run_id, run_count=run_count, incarnation=incarnation)

    def decide(state: RunState) -> AttemptStarted:
        allow(state)
        return body

    log.refresh()
    record = log.append(decide)
    if record is None:
        raise InternalError("AttemptStarted was not appended")
    return record.slot


def start_incarnation(log: RunLog, fence: int, incarnation: int) -> int:
    """The next writer of the attempt that holds `fence`, under a fence of its own; the dead one can commit no more.

    It belongs to whoever the attempt belongs to by now, and is written in that process's name: a living attempt may have
    been adopted, and the process of the log that asks may be gone. Called by its driver alone; after an
    `OutcomeUnknownError` it may be called again with the same `incarnation`, and returns the fence that the first call
    took, if it did.

    Raises:
        FenceLostError: `fence` is no longer open, so there is nothing to go on with.
    """

    def decide(state: RunState) -> AttemptStarted | None:
        if _taken_by(state, fence, incarnation) is not None:
            return None
        check_fence(state, fence)
        mine = state.attempts[fence]
        return AttemptStarted(
            flow_run_id=mine.flow_run_id, run_count=mine.run_count, incarnation=incarnation
        )

    log.refresh()
    record = log.append(decide, for_whom=lambda state: state.attempts[fence].by)
    taken = _taken_by(log.state, fence, incarnation) if record is None else record.slot
    if taken is None:
        raise InternalError("AttemptStarted was not appended")
    return taken


def _taken_by(state: RunState, fence: int, incarnation: int) -> int | None:
    """The open fence, if it is that `incarnation`'s of the attempt that held `fence` just before; an earlier call took it.

    Nobody else could: only an attempt's own driver hands out its incarnations, and whoever overtakes it begins with 0.
    """
    later = sorted(slot for slot in state.attempts if slot > fence)
    if not later or state.open_fence != later[0]:
        return None
    mine, taken = state.attempts.get(fence), state.attempts[later[0]]
    if mine is None or incarnation == 0 or taken.incarnation != incarnation:
        return None
    return taken.fence


def start_successor(log: RunLog, ended: int) -> tuple[int, int]:
    """The next writer of the attempt whose fence `ended` its own driver has closed: its fence, and its incarnation.

    It belongs to whoever the attempt belongs to by now, as with `start_incarnation`. Called by that driver alone, which is the one place that hands out incarnations.

    Raises:
        FenceLostError: somebody else has started since.
    """

    def decide(state: RunState) -> AttemptStarted:
        mine = state.attempts.get(ended)
        if mine is None or max(state.attempts) != ended:
            check_fence(state, ended)
            raise InternalError(f"Fence {ended} is still open")
        return AttemptStarted(
            flow_run_id=mine.flow_run_id,
            run_count=mine.run_count,
            incarnation=mine.incarnation + 1,
        )

    log.refresh()
    record = log.append(decide, for_whom=lambda state: state.attempts[ended].by)
    if record is None:
        raise InternalError("AttemptStarted was not appended")
    return record.slot, log.state.attempts[record.slot].incarnation


def adopt_attempt(log: RunLog, fence: int, *, flow_run_id: str, run_count: int) -> None:
    """Take a living writer over with its fence: it goes on, and from here on belongs to this try of this flow run.

    Raises:
        FenceLostError: that fence is no longer open.
    """
    log.refresh()
    log.append(lambda _: AttemptAdopted(fence=fence, flow_run_id=flow_run_id, run_count=run_count))


def end_attempt(log: RunLog, fence: int, outcome: str, reason: str | None = None) -> None:
    """Close the fence. Nothing can commit under it afterwards; ending an ended attempt changes nothing."""

    def decide(state: RunState) -> Body | None:
        if state.open_fence != fence:
            return None
        return AttemptEnded(fence=fence, outcome=outcome, reason=reason and reason[:2000])

    log.refresh()
    log.append(decide)


def roll_back(
    log: RunLog, to: VersionName | None, *, allow: Callable[[RunState], None] = lambda _: None
) -> None:
    """Abandon every version above `to` (all of them when None) and close the open fence.

    Args:
        log: the run's log.
        to: the version to go back to.
        allow: as for `start_attempt`: an attempt that opened meanwhile is not closed by one that may not start.
    """

    def decide(state: RunState) -> RolledBack:
        allow(state)
        return RolledBack(to=to)

    log.refresh()
    log.append(decide)


def this_process() -> dict[str, Any]:
    """Who writes, as stands in every record: enough to tell later, on this host, whether the process still runs."""
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
        **_pid_namespace(),
    }


def process_is_gone(by: Mapping[str, Any]) -> bool:
    """True only if the writer `by` provably runs no more: it was on this host, and its process is not there.

    A writer on another host is never declared gone, nor one in another PID namespace: that cannot be seen from here.
    """
    if by.get("host") != socket.gethostname() or not isinstance(by.get("pid"), int):
        return False
    if by.get("boot") != _boot_id():
        return True
    return _is_in_sight(by) and not _is_there(by)


def process_lives_here(by: Mapping[str, Any]) -> bool:
    """True only if the writer `by` provably runs now: its process is on this host."""
    same_host = by.get("host") == socket.gethostname() and by.get("boot") == _boot_id()
    return same_host and isinstance(by.get("pid"), int) and _is_in_sight(by) and _is_there(by)


def _is_there(by: Mapping[str, Any]) -> bool:
    started = _process_start(by["pid"])
    return started is not None and started == by.get("started")


def _is_in_sight(by: Mapping[str, Any]) -> bool:
    """Whether a pid of `by` is one of ours: containers may share the name of the host and its boot, and count apart.

    A writer that did not record its namespace is taken to be in ours.
    """
    recorded = by.get(_NAMESPACE)
    return recorded is None or recorded == _pid_namespace().get(_NAMESPACE)


def _pid_namespace() -> dict[str, str]:
    try:
        return {_NAMESPACE: str(Path("/proc/self/ns/pid").readlink())}
    except OSError:
        return {}


def _boot_id() -> str | None:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else None


def _process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot: with the pid it names one process for ever. None: gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def resumed_from(state: RunState, fence: int) -> VersionRef | None:
    """The version that the attempt with `fence` chose last; None when it chose none, or started from nothing."""
    attempt = state.attempts.get(fence)
    if attempt is None or attempt.resume is None:
        return None
    origin = attempt.resume_origin
    return VersionRef(
        run=None if origin is None else origin.run,
        number=attempt.resume.number,
        digest=attempt.resume.manifest,
    )
