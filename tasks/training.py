"""Run one attempt's training, on the main thread, and tell people what happens while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prefect.logging import get_run_logger

from ray_workers.code_version import code_version
from ray_workers.messages import PawlEvent, ResumePoint
from ray_workers.store.clock import epoch_seconds
from ray_workers.trainer import train
from ray_workers.training_job import TrainingJob
from tasks.attempt import Attempt
from tasks.cluster_job import run_job
from tasks.events import tell_prefect
from tasks.failure_history import failures_elsewhere
from tasks.lineage import LineagePublisher
from tasks.progress import ProgressBar
from tasks.retention import retention_while_training
from tasks.run_identity import running_for_s
from tasks.stacks_page import publish_stacks
from tasks.telling import Telling

__all__ = ["run_training"]

_WARNINGS = {
    "dropped",
    "fence_lost",
    "budget_spent",
    "validator_lost",
    "actor_restarted",
    "interrupted",
    "supervisor",
}


def run_training(attempt: Attempt, resume: ResumePoint | None) -> None:
    """Train to the end, here or as a Ray job. Not a task: Ray needs the main thread, and a retry must look at the store again.

    Raises:
        As `ray_workers.trainer.train`, and `tasks.cluster_job.run_job`.
    """
    request = attempt.request
    if attempt.finished is not None:
        return
    job = TrainingJob(
        target=request.target,
        run=request.run,
        run_id=attempt.run_id,
        fence=attempt.fence,
        flow_run_id=request.identity.flow_run_id,
        run_count=request.identity.run_count,
        by=attempt.by,
        entrypoint=request.entrypoint,
        config=request.config,
        code_dir=request.code_dir,
        code=code_version(request.code_dir),
        resume=resume,
        scaling=request.scaling,
        saving=request.saving,
        validation=request.validation,
        time_up_at=_time_up_at(attempt),
        failures_elsewhere=failures_elsewhere(attempt),
    )
    publisher = LineagePublisher(attempt, job.failures_elsewhere)
    publisher.publish()
    # Apart: what automations hang on must not wait behind a page that is slow to write.
    with (
        Telling(_sender(attempt)) as sending,
        Telling(_shower(attempt, publisher, ProgressBar(attempt))) as showing,
        Telling(retention_while_training(attempt)) as retaining,
    ):
        tell = _teller(sending.put, showing.put, retaining.put)
        if request.job_wish is None:
            train(job, on_event=tell, elsewhere=lambda: failures_elsewhere(attempt))
        else:
            run_job(request.job_wish, job, attempt.job, tell)


def _time_up_at(attempt: Attempt) -> float | None:
    limit_s = attempt.request.saving.time_limit_seconds
    if limit_s is None:
        return None
    left_s = limit_s - running_for_s(attempt.request.identity)
    return epoch_seconds() + left_s


def _teller(*elsewhere: Callable[[PawlEvent], None]) -> Callable[[PawlEvent], None]:
    """Logs an event, which waits for nobody, and has it told where Prefect's server may be waited for."""
    # Taken here, in the flow's context: the events come from another thread.
    logger = get_run_logger()

    def tell(event: PawlEvent) -> None:
        level = (
            logging.WARNING
            if event.kind in _WARNINGS or event.details.get("reason")
            else logging.INFO
        )
        logger.log(int(event.details.get("level", level)), event.message)
        if event.kind != "log":
            for put in elsewhere:
                put(event)

    return tell


def _sender(attempt: Attempt) -> Callable[[PawlEvent], None]:
    return lambda event: tell_prefect(event, attempt.request.run, attempt.request.identity)


def _shower(
    attempt: Attempt, publisher: LineagePublisher, bar: ProgressBar
) -> Callable[[PawlEvent], None]:
    def show(event: PawlEvent) -> None:
        if event.kind == "hung":
            publish_stacks(attempt.request.run, event)
        if event.kind in ("committed", "verdict"):
            bar.show(event)
        if event.kind in ("committed", "verdict", "actor_restarted", "resized"):
            publisher.publish_soon()

    return show
