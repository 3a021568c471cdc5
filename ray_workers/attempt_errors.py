"""What ended an attempt, as an error of our tree: the stop we know of, a worker's own, or the loop's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_workers.hang_watch import Hung
from ray_workers.messages import StopRequest
from ray_workers.policies.failure_words import Failure, placed
from ray_workers.store.errors import (
    AttemptInterruptedError,
    FailureBudgetSpentError,
    FenceLostError,
    PawlError,
    RankHungError,
    TrainingFailedError,
)
from ray_workers.supervisor import Supervisor
from ray_workers.training_job import TrainingJob
from ray_workers.worker_errors import causes_of, culprit, last_line

__all__ = ["as_ours", "ended_as_asked", "hung_error", "interrupted_error", "recorded_end"]

_NO_WORKERS = {
    "PreemptionError",
    "WorkerGroupStartupFailedError",
    "WorkerGroupStartupTimeoutError",
}
"""Ray Train's own: a node went before its workers had ended, or, inside a `ControllerError`, they could not be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds that went by with a failed attempt (`policies.failure_words`)."""

    noticed_s: float | None
    settled_s: float


def as_ours(job: TrainingJob, supervisor: Supervisor, error: Exception, took: Took) -> PawlError:
    """What ended the attempt, where Ray Train says `error`."""
    causes = causes_of(error)
    ours = {rank: cause for rank, cause in causes.items() if isinstance(cause, PawlError)}
    known = _known_end(job, supervisor, list(ours.values()))
    if known is not None:
        return known
    if ours:
        return _at_its_place(ours, supervisor)
    if not causes:
        inner = getattr(error, "controller_failure", error)
        return TrainingFailedError(
            f"Training of run {job.run!r} failed: {last_line(error)}",
            no_workers=type(inner).__name__ in _NO_WORKERS,
        )
    rank, cause = culprit(causes)
    failure = Failure(
        rank=rank,
        error=type(cause).__name__,
        said=last_line(cause),
        node=supervisor.places.node_of(rank),
        noticed_s=took.noticed_s,
        settled_s=took.settled_s,
        preempted=getattr(cause, "preempted", False) is True,
    )
    return TrainingFailedError(
        failure.text(job.run), rank=rank, error=failure.error, node=failure.node
    )


def ended_as_asked(error: Exception) -> bool:
    """Whether a worker came to the end of a step and ended there because it was asked to."""
    return any(isinstance(cause, AttemptInterruptedError) for cause in causes_of(error).values())


def recorded_end(error: Exception) -> tuple[str, str]:
    """Outcome and reason for the end record of an attempt that ended with `error`."""
    text = str(error) or type(error).__name__
    if isinstance(error, AttemptInterruptedError):
        return "interrupted", text
    details = error.details if isinstance(error, PawlError) else {}
    place = {"rank": details.get("rank"), "node": details.get("node")}
    return "failed", placed(text, **place, error=type(error).__name__)


def _at_its_place(ours: Mapping[int, PawlError], supervisor: Supervisor) -> PawlError:
    """The first rank's error, which keeps its own words, and the rank it names if it speaks of another one."""
    first, error = next(iter(ours.items()))
    rank = error.details.get("rank", first)
    node = supervisor.places.node_of(rank) or error.details.get("node")
    error.details |= {"rank": rank, "node": node}
    return error


def _known_end(job: TrainingJob, supervisor: Supervisor, ours: list[PawlError]) -> PawlError | None:
    """What the driver ended it for; as a worker says it, who knows more, if one still could."""
    if supervisor.stop_reason == "fence_lost":
        met = next((e for e in ours if isinstance(e, FenceLostError)), None)
        return met or FenceLostError(
            f"Run {job.run!r} was taken over by a newer attempt.", fence=job.fence
        )
    if supervisor.interruption is not None:
        met_end = next((e for e in ours if isinstance(e, AttemptInterruptedError)), None)
        return interrupted_error(job, supervisor.interruption, met_end)
    if supervisor.hung is not None:
        return hung_error(job, supervisor.hung)
    if supervisor.stop_reason == "budget_spent":
        met_budget = next((e for e in ours if isinstance(e, FailureBudgetSpentError)), None)
        return met_budget or FailureBudgetSpentError(
            f"Run {job.run!r}: the failure budget for saves is spent."
        )
    return None


def hung_error(job: TrainingJob, hung: Hung) -> RankHungError:
    text = f"Run {job.run!r}: {hung.sentence}"
    return RankHungError(text, ranks=list(hung.ranks), step=hung.step)


def interrupted_error(
    job: TrainingJob, asked: StopRequest, known: AttemptInterruptedError | None = None
) -> AttemptInterruptedError:
    text = (
        known.message
        if known
        else f"Run {job.run!r} was interrupted before its workers came to the end of a step."
    )
    details = known.details if known else {}
    return AttemptInterruptedError(f"{asked.told}: {text}", **{**details, "cause": asked.cause})
