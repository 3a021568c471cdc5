"""What a job asks for, as what its supervisor and its workers are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ray_workers.environment import started_as
from ray_workers.interruption_watch import TimeLimit
from ray_workers.interval_controller import IntervalPlan
from ray_workers.interval_facts import failure_rate_of, plan_interval, read_history
from ray_workers.messages import PawlEvent
from ray_workers.node_agent import AgentConfig
from ray_workers.policies.elastic import GrowthRule, WorkerRange
from ray_workers.policies.failure_rate import Evidence, FailureRate
from ray_workers.policies.hang import HangRule
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.room import GrowthPlan
from ray_workers.staging_files import StagingFolder
from ray_workers.store.clock import epoch_seconds, utc_now
from ray_workers.store.errors import PawlError
from ray_workers.store.manifest import VersionRef
from ray_workers.supervisor import Supervision
from ray_workers.train_worker import WorkerJob
from ray_workers.training_job import TrainingJob
from ray_workers.version_assembly import AttemptIdentity

__all__ = ["growth_of", "rate_now", "staging_of", "supervision_of", "time_up_at", "worker_job_of"]


def supervision_of(
    job: TrainingJob,
    limits: WorkerRange | None,
    on_event: Callable[[PawlEvent], None],
    until: float | None,
    rate: Callable[[], FailureRate | None] = lambda: None,
) -> Supervision:
    """What watches over the attempt.

    Args:
        job: the attempt's.
        limits: the range that its workers are of; None: their number is fixed.
        on_event: hears what happens.
        until: when the time limit is over, as `time_up_at`.
        rate: how often training fails by now.
    """
    point = job.resume
    parent = (
        None
        if point is None
        else VersionRef(
            run=point.run if point.foreign else None,
            number=point.name.number,
            digest=point.name.manifest,
        )
    )
    return Supervision(
        target=job.target,
        attempt=AttemptIdentity(
            run=job.run,
            run_id=job.run_id,
            fence=job.fence,
            parent=parent,
            config=job.config,
            by=job.by,
        ),
        failure_budget=job.saving.failure_budget,
        agent=AgentConfig(
            target=job.target,
            run=job.run,
            staging=staging_of(job),
            upload_tries=job.saving.upload_tries,
        ),
        policy=SoundnessPolicy.of(job.validation),
        validation_timeout_s=job.validation.timeout_seconds,
        hot_restore=job.saving.hot_restore,
        on_event=on_event,
        limit=_time_limit(job, until),
        hang_rule=_hang_rule(job),
        growth=growth_of(job, limits),
        incarnation=job.incarnation,
        rate=rate,
    )


def staging_of(job: TrainingJob) -> StagingFolder:
    """Where the attempt's buffers lie on each node."""
    limit = job.saving.staging_limit_mb
    return StagingFolder(
        folder=Path(job.saving.staging_dir),
        run_id=job.run_id,
        fence=job.fence,
        limit_bytes=None if limit is None else int(limit * 1e6),
    )


def _interval(job: TrainingJob) -> IntervalPlan | None:
    """From the history of the run; an unreadable one costs the history and not the training."""
    try:
        history = read_history(job.target.open().store, job.run)
    except PawlError:
        history = None
    return plan_interval(history, job.saving, job.scaling.workers, job.failures_elsewhere)


def rate_now(job: TrainingJob, elsewhere: Iterable[Evidence]) -> FailureRate:
    """How often training fails by what the run's log says now, and by how other runs fared.

    Raises:
        PawlError: the log cannot be read.
    """
    own = read_history(job.target.open().store, job.run).evidence
    return failure_rate_of(own, elsewhere)


def time_up_at(job: TrainingJob) -> float | None:
    """When the time limit is over, on this process's monotonic clock; None: there is none."""
    limit_s = job.saving.time_limit_seconds
    if limit_s is None:
        return None
    left_s = limit_s if job.time_up_at is None else job.time_up_at - epoch_seconds()
    return time.monotonic() + left_s


def _time_limit(job: TrainingJob, until: float | None) -> TimeLimit | None:
    limit_s = job.saving.time_limit_seconds
    return None if limit_s is None or until is None else TimeLimit(limit_s=limit_s, until=until)


def _hang_rule(job: TrainingJob) -> HangRule | None:
    scaling = job.scaling
    if scaling.hung_after_seconds == 0:
        return None
    return HangRule(at_least_s=scaling.hung_after_seconds, steps=scaling.hung_after_steps)


def growth_of(job: TrainingJob, limits: WorkerRange | None) -> GrowthPlan | None:
    """What is looked for while a range trains; None: more workers are of no use."""
    # What is saved before more workers begin has had no drill: with `restorable` they would begin far behind it.
    if limits is None or job.validation.required == "restorable":
        return None
    return GrowthPlan(
        worker=job.scaling.resources_per_worker,
        limits=limits,
        workers=job.scaling.workers,
        rule=GrowthRule(after_s=job.scaling.grow_after_seconds),
    )


def worker_job_of(job: TrainingJob) -> WorkerJob:
    """What each worker is given."""
    scaling = job.scaling
    return WorkerJob(
        target=job.target,
        run=job.run,
        run_id=job.run_id,
        fence=job.fence,
        entrypoint=job.entrypoint,
        config=dict(job.config),
        resume=job.resume,
        thresholds=SaveThresholds(
            every_steps=job.saving.every_steps,
            every_epochs=job.saving.every_epochs,
            every_seconds=job.saving.every_seconds,
        ),
        interval=_interval(job),
        buffers=job.saving.buffers,
        log_lines_per_second=scaling.log_lines_per_second,
        watched=scaling.hung_after_seconds > 0,
        on_changed_workers=scaling.on_changed_workers,
        required=job.validation.required,
        policy=SoundnessPolicy.of(job.validation),
        full_every=job.saving.full_every,
        staging=staging_of(job) if job.saving.hot_restore else None,
        launched_at=utc_now(),
        started_as=started_as(
            job.entrypoint, scaling.cpus_per_worker, scaling.gpus_per_worker, job.code
        ),
    )
