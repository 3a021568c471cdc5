"""The end of an attempt, as a flow sees it: recorded, explained, and in the right state whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed

from ray_workers.messages import TIME_LIMIT
from ray_workers.policies.failure_words import placed
from ray_workers.store.attempts import end_attempt, read_run
from ray_workers.store.errors import (
    AttemptInterruptedError,
    DamageError,
    FenceLostError,
    PawlError,
    RefusedError,
)
from ray_workers.store.keys import data_fence
from ray_workers.store.log import RunLog
from ray_workers.store.rules import check_fence
from ray_workers.store.versions import verify_bytes
from ray_workers.validation import record_verdicts
from tasks.attempt import Attempt
from tasks.cluster_job import job_goes_on
from tasks.events import announce
from tasks.lineage import LineagePublisher
from tasks.run_identity import forbid_retries, is_being_cancelled
from tasks.standing import standing

__all__ = ["Ending", "ended_properly"]


@dataclass(slots=True)
class Ending:
    """How the flow run ends; set by `ended_properly`."""

    state: State[Any] = field(default_factory=Completed)
    retention: tuple[str, ...] = ()
    """What retention planned and did, as lines for the lineage page."""


@contextmanager
def ended_properly(attempt: Attempt) -> Iterator[Ending]:
    """Whatever happens inside, the attempt's end is in the log and the flow run ends in the right state.

    A lost fence is no failure: the flow run ends Cancelled, which nothing retries. Where a later try of the same flow run
    has begun, this process leaves that run's state alone, whatever ended it. Bad bytes met in a worker are read again
    here, and quarantined if they are bad here too, so that the retry falls back.
    """
    ending = Ending()
    if attempt.finished is not None:
        ending.state = Completed(message=attempt.finished)
        yield ending
        return
    if attempt.overtaken is not None:
        ending.state = _lost(attempt, attempt.overtaken)
        yield ending
        return
    try:
        yield ending
    except FenceLostError as error:
        ending.state = _lost(attempt, error)
    except BaseException as error:
        outcome = _outcome(attempt, error)
        _close(attempt, *outcome)
        _leave_to_a_later_try(attempt)
        _quarantine(attempt, error)
        LineagePublisher(attempt).publish()
        _tell(attempt, *outcome)
        _say_where_it_stands(attempt, error)
        if isinstance(error, RefusedError) or _out_of_time(error):
            forbid_retries(attempt.request.identity)
        raise
    else:
        _close(attempt, "completed", None)
        ending.state = Completed(message=_standing(attempt))
        _tell(attempt, "completed", None)


def _out_of_time(error: BaseException) -> bool:
    """This process has no time for another try. Whoever starts the next one may retry the flow run."""
    return isinstance(error, AttemptInterruptedError) and error.details.get("cause") == TIME_LIMIT


def _tell(attempt: Attempt, outcome: str, reason: str | None) -> None:
    request = attempt.request
    said = {"outcome": outcome, "reason": reason, "message": _standing(attempt)}
    announce(f"pawl.attempt.{outcome}", request.run, request.identity, said)


def _standing(attempt: Attempt) -> str | None:
    try:
        return standing(attempt.request.target.open().store, attempt.request.run)
    except PawlError:
        return None


def _say_where_it_stands(attempt: Attempt, error: BaseException) -> None:
    """Prefect makes the state's message of the error's text."""
    where = _standing(attempt)
    if isinstance(error, PawlError) and where is not None:
        error.args = (f"{error.message} ({where})",)


def _lost(attempt: Attempt, met: FenceLostError) -> State[Any]:
    error = _with_the_winner(attempt, met)
    get_run_logger().warning(error.message)
    by = error.details.get("by") or {}
    if by.get("flow_run_id") == attempt.request.identity.flow_run_id:
        # The flow run belongs to its later try; reporting any state from here would end that one.
        raise Abort(error.message)
    return Cancelled(message=error.message)


def _leave_to_a_later_try(attempt: Attempt) -> None:
    """Raise Abort if one has begun: a process that is told to go may not have learnt yet that it lost the fence."""
    identity = attempt.request.identity
    try:
        state = read_run(attempt.request.target.open().store, attempt.request.run)
    except PawlError:
        return  # the store is away: what is known must do
    own = [a for a in state.attempts.values() if a.flow_run_id == identity.flow_run_id]
    newest = max(own, key=lambda a: a.fence, default=None)
    if newest is None or newest.run_count <= identity.run_count:
        return
    message = (
        f"Run {state.run!r} belongs to try {newest.run_count} of this flow run; try {identity.run_count} ends, and leaves "
        "the flow run's state to it."
    )
    get_run_logger().warning(message)
    raise Abort(message)


def _with_the_winner(attempt: Attempt, error: FenceLostError) -> FenceLostError:
    """A worker may learn only that the fence is lost; who has the run now stands in the log."""
    if error.details.get("by"):
        return error
    request = attempt.request
    try:
        check_fence(read_run(request.target.open().store, request.run), attempt.fence)
    except FenceLostError as known:
        return known
    except PawlError:
        pass  # the store is away: what is known must do
    return error


def _outcome(attempt: Attempt, error: BaseException) -> tuple[str, str]:
    if isinstance(error, AttemptInterruptedError):
        return "interrupted", error.message
    if isinstance(error, Exception):
        return "failed", _with_its_place(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "Ctrl-C"
    if is_being_cancelled(attempt.request.identity):
        return "interrupted", "cancelled"
    told = "SIGTERM" if isinstance(error, TerminationSignal | SystemExit) else "ended by Prefect"
    return "interrupted", f"{told} ({type(error).__name__})"


def _with_its_place(error: Exception) -> str:
    details = error.details if isinstance(error, PawlError) else {}
    place = {"rank": details.get("rank"), "node": details.get("node")}
    return placed(str(error), **place, error=type(error).__name__)


def _close(attempt: Attempt, outcome: str, reason: str | None) -> None:
    """End whichever fence this try holds; a restarted checkpoint actor took another than it began with."""
    address = attempt.request.scaling.jobs_address
    if outcome != "completed" and address and job_goes_on(address, attempt.run_id, attempt.fence):
        get_run_logger().warning(
            "The Ray job goes on without this process; a retry of this flow run follows it again."
        )
        return
    identity = attempt.request.identity
    try:
        log = _log(attempt)
        mine = log.state.open_attempt
        ours = (identity.flow_run_id, identity.run_count)
        if mine is not None and (mine.flow_run_id, mine.run_count) == ours:
            end_attempt(log, mine.fence, outcome, reason)
    except PawlError as error:
        get_run_logger().warning("The end of this attempt could not be recorded: %s", error.message)


def _quarantine(attempt: Attempt, error: BaseException) -> None:
    """Bytes that failed in a worker are bad for every later attempt too, if they do not hold here either."""
    if not isinstance(error, DamageError) or not _may_be_ours(attempt, error.details.get("key")):
        return
    try:
        _read_again(attempt)
    except PawlError as met:
        get_run_logger().warning(
            "What a worker called damaged could not be read again here, and keeps its rung: %s",
            met.message,
        )


def _read_again(attempt: Attempt) -> None:
    log = _log(attempt)
    newest = max(
        (a for a in log.state.attempts.values() if a.resume), key=lambda a: a.fence, default=None
    )
    if newest is None or newest.resume is None or newest.resume_origin is not None:
        return
    version = log.state.find(newest.resume)
    if version is None or version.quarantine is not None:
        return
    found, _ = verify_bytes(log.store, attempt.request.run, version)
    if found.passed:
        get_run_logger().warning(
            "All bytes of version %d hold here: it keeps its rung. If a worker fails with it again, its machine or its "
            "network is at fault.",
            version.number,
        )
        return
    record_verdicts(log, version, [found], checker=f"worker of fence {newest.fence}")


def _may_be_ours(attempt: Attempt, key: str | None) -> bool:
    """Damage of a data set, or of another run, says nothing about the version resumed from."""
    if key is None:
        return True
    named = data_fence(key)
    return named is not None and named.run == attempt.request.run


def _log(attempt: Attempt) -> RunLog:
    store = attempt.request.target.open().store
    return RunLog(store, attempt.request.run, by=attempt.by, patience_s=20.0)
