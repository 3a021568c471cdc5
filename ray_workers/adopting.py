"""A retried flow and the Ray job that its dead predecessor left training: which job, and may it be taken over?

Pure. The job is named by the fence that its attempt began with, so the log alone leads to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray_workers.store.run_state import AttemptState, RunState

__all__ = ["JobOffer", "base_fence", "job_name", "offered_job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOffer:
    """The job that trains for the run's newest attempt, if its cluster still knows it."""

    name: str
    fence: int
    """That commits now."""
    ended: bool
    """The attempt was trained to its end; what the flow does after training may still be owed."""


def job_name(run_id: str, fence: int) -> str:
    """The submission id: one job for each attempt, the same name however often it is asked for."""
    return f"pawl-{run_id[:16]}-{fence}"


def base_fence(state: RunState, fence: int) -> int:
    """The fence that the driver of `fence` began with; a restarted checkpoint actor takes another (FORMAT.md §9)."""
    below = sorted((f for f in state.attempts if f <= fence), reverse=True)
    return next((f for f in below if state.attempts[f].incarnation == 0), fence)


def offered_job(
    state: RunState, flow_run_id: str, dead: Callable[[AttemptState], bool]
) -> JobOffer | None:
    """The job that the flow run `flow_run_id` may follow instead of starting an attempt.

    Its own earlier try's job, whatever became of that try; or the job of another flow run that is `dead`.
    """
    newest = max(state.attempts.values(), key=lambda a: a.fence, default=None)
    if newest is None or state.run_id is None:
        return None
    own = newest.flow_run_id == flow_run_id
    ended = newest.outcome == "completed"
    is_open = state.open_fence == newest.fence
    if not ((own and (is_open or ended)) or (is_open and dead(newest))):
        return None
    return JobOffer(
        name=job_name(state.run_id, base_fence(state, newest.fence)),
        fence=newest.fence,
        ended=ended,
    )
