"""Training with a range of workers: one group of them after another, each from Pawl's own resume point, in one attempt.

Ray Train can change the number of workers within one `fit()`, but it gives no call ahead of that in which to save, its new
workers would start from what the old ones were told, and a shard that an old worker still uploads could meet those of new
ones. So each group is a `fit()` of its own here, under a fence of its own: what a group left behind cannot commit any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ray_workers.adopting import base_fence
from ray_workers.attempt_errors import recorded_end
from ray_workers.messages import DRAINING, RESIZE, PawlEvent
from ray_workers.policies.elastic import GoingOn, GroupEnd, WorkerRange
from ray_workers.policies.failure_causes import cause_of_end
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.resume import choose
from ray_workers.room import wait_for_room
from ray_workers.store.attempts import end_attempt, start_successor
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import AttemptInterruptedError, PawlError, TrainingFailedError
from ray_workers.store.log import RunLog
from ray_workers.store.rules import check_fence
from ray_workers.training_job import TrainingJob

__all__ = ["group_end", "train_elastically"]

_LOG_PATIENCE_S = 120.0


def train_elastically(
    job: TrainingJob,
    train_group: Callable[[TrainingJob, WorkerRange], None],
    on_event: Callable[[PawlEvent], None],
    *,
    until: float | None = None,
) -> None:
    """Train to the end, with as many workers as there is room for.

    Args:
        job: with the range; its fence is taken and its resume point chosen.
        train_group: trains a job of a fixed number of workers; ends early when there is room for more of the range.
        on_event: as for `trainer.train`.
        until: when the time limit is over, on the monotonic clock; None: there is none.

    Raises:
        As `train_group`, when training cannot go on by itself, and FenceLostError: a newer attempt took over meanwhile.
    """
    limits = WorkerRange(
        least=job.scaling.workers, most=job.scaling.max_workers or job.scaling.workers
    )
    before, ended, fruitless = 0, 0, 0
    while True:
        left_s = None if until is None else until - time.monotonic()
        worker = job.scaling.resources_per_worker
        workers = wait_for_room(worker, limits, left_s=left_s, on_event=on_event)
        if ended:
            at = _step(job)
            job = _next_group(job, ended, on_event)
            fruitless = 0 if _step(job) > at else fruitless + 1
            on_event(_goes_on(job, before, workers))
        group = replace(job, scaling=job.scaling.fixed_at(workers))
        try:
            train_group(group, limits)
        except PawlError as error:
            end = group_end(error, workers)
            limits = limits.without(workers) if end.unfit else limits
            if not GoingOn().goes_on(end, limits, fruitless=fruitless):
                raise
            ended, before = _close(job, error), workers
        else:
            return


def group_end(error: PawlError, workers: int) -> GroupEnd:
    """What ended a group of so many workers, as far as it matters for going on."""
    details = error.details
    if isinstance(error, AttemptInterruptedError):
        # Asked to make room, workers that did not come to the end of a step are still there.
        left = details.get("cause") == RESIZE and "step" in details
        return GroupEnd(asked=left or details.get("cause") == DRAINING)
    if isinstance(error, TrainingFailedError):
        machine = cause_of_end("failed", error.message, open_now=False) == "infrastructure"
        named = details.get("rank") is not None
        return GroupEnd(lost=(machine and named) or bool(details.get("no_workers")))
    return GroupEnd(unfit=details.get("unfit_workers") == workers)


def _log(job: TrainingJob) -> RunLog:
    store = job.target.open().store
    return RunLog(store, job.run, by=job.by, patience_s=_LOG_PATIENCE_S)


def _close(job: TrainingJob, error: PawlError) -> int:
    """End the fence that this group committed under last, and return it."""
    log = _log(job)
    state = log.refresh()
    # A checkpoint actor that was started again has another fence than the group began with.
    same = (f for f in state.attempts if base_fence(state, f) == base_fence(state, job.fence))
    fence = max(same, default=job.fence)
    check_fence(state, fence)
    end_attempt(log, fence, *recorded_end(error))
    return fence


def _next_group(job: TrainingJob, ended: int, on_event: Callable[[PawlEvent], None]) -> TrainingJob:
    """The same training under a fence of its own, from what holds up now."""

    def tell(text: str) -> None:
        on_event(PawlEvent(kind="choosing", message=text, at=utc_now()))

    log = _log(job)
    fence, incarnation = start_successor(log, ended)
    choice = choose(
        job.target.open().store,
        log,
        fence,
        required=job.validation.required,
        policy=SoundnessPolicy.of(job.validation),
        tell=tell,
    )
    return replace(job, fence=fence, incarnation=incarnation, resume=choice.point)


def _step(job: TrainingJob) -> int:
    return -1 if job.resume is None else job.resume.step


def _goes_on(job: TrainingJob, before: int, workers: int) -> PawlEvent:
    point = job.resume
    start = "nothing" if point is None else f"version {point.name.number} (step {point.step})"
    return PawlEvent(
        kind="resized",
        message=f"Training goes on from {start} with {workers} workers; before, there were {before}.",
        at=utc_now(),
        details={"workers": workers, "before": before, "fence": job.fence, "step": _step(job)},
    )
