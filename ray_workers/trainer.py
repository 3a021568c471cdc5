"""The composition root of training: cluster, actors, agents, Ray's trainer; one attempt from resume point to end."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train import TrainingFailedError as RayTrainingFailedError
from ray.train.torch import TorchTrainer

from ray_workers.checkpoint_manager import AttemptIdentity
from ray_workers.environment import started_as
from ray_workers.messages import PawlEvent
from ray_workers.node_agent import AgentConfig
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.ray_cluster import ray_cluster
from ray_workers.staging_files import StagingFolder
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import (
    FailureBudgetSpentError,
    FenceLostError,
    PawlError,
    TrainingFailedError,
)
from ray_workers.store.manifest import VersionRef
from ray_workers.supervisor import Supervision, Supervisor
from ray_workers.train_worker import WorkerJob, run_worker
from ray_workers.training_job import TrainingJob
from ray_workers.worker_errors import causes_of, last_line

__all__ = ["train"]

_SETTLE_S = 20.0


def train(job: TrainingJob, *, on_event: Callable[[PawlEvent], None]) -> None:
    """Train to the end. Called on the main thread, which Ray needs for its signal handlers and its cluster.

    `on_event` is called from another thread, one event at a time.

    Raises:
        FenceLostError: a newer attempt took over.
        FailureBudgetSpentError: too many saves failed in a row.
        StateMismatchError, InvalidInputError, DamageError …: what a worker raised, if it is one of ours.
        TrainingFailedError: the loop raised, or a worker died.
    """
    if job.scaling.ray_address is not None:
        job = replace(job, target=job.target.for_other_machines())
    with (
        ray_cluster(job.scaling, job.code_dir),
        Supervisor(_supervision(job, on_event)) as supervisor,
        tempfile.TemporaryDirectory(prefix="pawl-ray-") as scratch,
    ):
        try:
            _trainer(job, scratch).fit()
        except (RayTrainingFailedError, RayActorError) as error:
            supervisor.settle(_SETTLE_S)
            supervisor.finish_validation(_SETTLE_S)
            raise _as_ours(job, supervisor, error) from error
        supervisor.finish_validation(job.validation.timeout_seconds)


def _supervision(job: TrainingJob, on_event: Callable[[PawlEvent], None]) -> Supervision:
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
            staging=_staging(job),
            upload_tries=job.saving.upload_tries,
        ),
        policy=SoundnessPolicy.of(job.validation),
        validation_timeout_s=job.validation.timeout_seconds,
        hot_restore=job.saving.hot_restore,
        on_event=on_event,
    )


def _staging(job: TrainingJob) -> StagingFolder:
    return StagingFolder(folder=Path(job.saving.staging_dir), run_id=job.run_id, fence=job.fence)


def _trainer(job: TrainingJob, scratch: str) -> TorchTrainer:
    scaling = job.scaling
    worker = WorkerJob(
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
        buffers=job.saving.buffers,
        log_lines_per_second=scaling.log_lines_per_second,
        on_changed_workers=scaling.on_changed_workers,
        required=job.validation.required,
        policy=SoundnessPolicy.of(job.validation),
        full_every=job.saving.full_every,
        staging=_staging(job) if job.saving.hot_restore else None,
        launched_at=utc_now(),
        started_as=started_as(job.entrypoint, scaling.cpus_per_worker, scaling.gpus_per_worker),
    )
    resources = {"CPU": scaling.cpus_per_worker}
    if scaling.gpus_per_worker:
        resources["GPU"] = scaling.gpus_per_worker
    return TorchTrainer(
        # Bound, not passed as train_loop_config: that is kept and shown by Ray, and a target may carry credentials.
        functools.partial(run_worker, worker),
        scaling_config=ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        # Pawl's own resume point is the only one; Ray's restart would hand out its own newest checkpoint.
        run_config=RunConfig(
            name=f"{job.run}-{job.fence}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0),
        ),
    )


def _as_ours(job: TrainingJob, supervisor: Supervisor, error: Exception) -> PawlError:
    """What ended the attempt, as an error of our tree: the stop we know of, a worker's own, or the loop's."""
    causes = causes_of(error)
    ours = [cause for cause in causes.values() if isinstance(cause, PawlError)]
    if supervisor.stop_reason == "fence_lost":
        known = next((e for e in ours if isinstance(e, FenceLostError)), None)
        return known or FenceLostError(
            f"Run {job.run!r} was taken over by a newer attempt.", fence=job.fence
        )
    if supervisor.stop_reason == "budget_spent":
        known_budget = next((e for e in ours if isinstance(e, FailureBudgetSpentError)), None)
        return known_budget or FailureBudgetSpentError(
            f"Run {job.run!r}: the failure budget for saves is spent."
        )
    if ours:
        return ours[0]
    if not causes:
        return TrainingFailedError(f"Training of run {job.run!r} failed: {last_line(error)}")
    rank, cause = next(iter(causes.items()))
    return TrainingFailedError(
        f"Training of run {job.run!r} failed on rank {rank}: {type(cause).__name__}: {last_line(cause)}",
        rank=rank,
        error=type(cause).__name__,
    )
