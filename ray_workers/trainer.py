"""The composition root of training: cluster, actors, agents, Ray's trainer; one attempt from resume point to end."""

from __future__ import annotations

import functools
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train import TrainingFailedError as RayTrainingFailedError
from ray.train.torch import TorchTrainer

from ray_workers.environment import started_as
from ray_workers.fitting import Fitting
from ray_workers.interruption_watch import TimeLimit
from ray_workers.interval_controller import IntervalPlan
from ray_workers.interval_facts import plan_interval, read_history
from ray_workers.messages import PawlEvent, StopRequest
from ray_workers.node_agent import AgentConfig
from ray_workers.policies.failure_words import Failure
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.ray_cluster import ray_cluster
from ray_workers.staging_files import StagingFolder
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import (
    AttemptInterruptedError,
    FailureBudgetSpentError,
    FenceLostError,
    PawlError,
    TrainingFailedError,
)
from ray_workers.store.manifest import VersionRef
from ray_workers.supervisor import Supervision, Supervisor
from ray_workers.train_worker import WorkerJob, run_worker
from ray_workers.training_job import TrainingJob
from ray_workers.version_assembly import AttemptIdentity
from ray_workers.worker_errors import causes_of, culprit, last_line

__all__ = ["train"]

_SETTLE_S = 20.0
_POLL_S = 0.5
_CTRL_C_GRACE_S = 6.0
"""A person at a terminal waits: all is over within ten seconds."""
_TERM_GRACE_S = 18.0
"""Prefect, Kubernetes and Ray kill 30 seconds after SIGTERM; the rest is for ending in order."""


def train(job: TrainingJob, *, on_event: Callable[[PawlEvent], None]) -> None:
    """Train to the end. Called on the main thread, on which signals arrive and to which a local cluster is bound.

    `on_event` is called from another thread, one event at a time. An exception that a signal handler raises
    (`KeyboardInterrupt`, Prefect's `TerminationSignal` …) goes through when the workers have saved once more and ended,
    or when their grace is over. A second one goes through at once.

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
        fitting = Fitting(_trainer(job, scratch).fit)
        try:
            _fit(job, fitting, supervisor)
        except Exception:
            raise
        except BaseException as signalled:
            supervisor.interrupt(_request(signalled, job.saving.grace_seconds))
            _wait_for_the_end(fitting, supervisor)
            raise
        supervisor.finish_validation(job.validation.timeout_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Took:
    """Seconds that went by with a failed attempt (`policies.failure_words`)."""

    noticed_s: float | None
    settled_s: float


def _fit(job: TrainingJob, fitting: Fitting, supervisor: Supervisor) -> None:
    try:
        while not fitting.wait(_POLL_S):
            asked = supervisor.interruption
            if asked is not None and asked.grace_s == 0:
                raise _interrupted(job, asked)
    except (RayTrainingFailedError, RayActorError) as error:
        noticed_s, at = supervisor.places.gone_for_s(), time.monotonic()
        if supervisor.interruption is None:
            supervisor.settle(_SETTLE_S)
            supervisor.finish_validation(_SETTLE_S)
        took = _Took(noticed_s=noticed_s, settled_s=time.monotonic() - at)
        raise _as_ours(job, supervisor, error, took) from error


def _request(signalled: BaseException, grace_s: float | None) -> StopRequest:
    cause, usual_s = signal.Signals.SIGTERM.name, _TERM_GRACE_S
    if isinstance(signalled, KeyboardInterrupt):
        cause, usual_s = "Ctrl-C", _CTRL_C_GRACE_S
    return StopRequest(reason="interrupted", cause=cause, grace_s=grace_s or usual_s)


def _wait_for_the_end(fitting: Fitting, supervisor: Supervisor) -> None:
    """Return when the workers have ended, or when their grace is over."""
    while (asked := supervisor.interruption) is not None and asked.grace_s > 0:
        try:
            if fitting.wait(min(_POLL_S, asked.grace_s)):
                return
        except Exception:  # noqa: BLE001 - how they end says nothing: they were told to
            return


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
        limit=_time_limit(job),
    )


def _staging(job: TrainingJob) -> StagingFolder:
    return StagingFolder(folder=Path(job.saving.staging_dir), run_id=job.run_id, fence=job.fence)


def _interval(job: TrainingJob) -> IntervalPlan | None:
    """From the history of the run; an unreadable one costs the history and not the training."""
    try:
        history = read_history(job.target.open().store, job.run)
    except PawlError:
        history = None
    return plan_interval(history, job.saving, job.scaling.workers, job.failures_elsewhere)


def _time_limit(job: TrainingJob) -> TimeLimit | None:
    limit_s = job.saving.time_limit_seconds
    if limit_s is None:
        return None
    left_s = limit_s if job.seconds_left is None else job.seconds_left
    return TimeLimit(limit_s=limit_s, left_s=left_s)


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
        interval=_interval(job),
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


def _as_ours(job: TrainingJob, supervisor: Supervisor, error: Exception, took: _Took) -> PawlError:
    """What ended the attempt, as an error of our tree: the stop we know of, a worker's own, or the loop's."""
    causes = causes_of(error)
    ours = {rank: cause for rank, cause in causes.items() if isinstance(cause, PawlError)}
    if supervisor.stop_reason == "fence_lost":
        known = next((e for e in ours.values() if isinstance(e, FenceLostError)), None)
        return known or FenceLostError(
            f"Run {job.run!r} was taken over by a newer attempt.", fence=job.fence
        )
    if supervisor.interruption is not None:
        known_end = next((e for e in ours.values() if isinstance(e, AttemptInterruptedError)), None)
        return _interrupted(job, supervisor.interruption, known_end)
    if supervisor.stop_reason == "budget_spent":
        known_budget = next(
            (e for e in ours.values() if isinstance(e, FailureBudgetSpentError)), None
        )
        return known_budget or FailureBudgetSpentError(
            f"Run {job.run!r}: the failure budget for saves is spent."
        )
    if ours:
        return _at_its_place(ours, supervisor)
    if not causes:
        return TrainingFailedError(f"Training of run {job.run!r} failed: {last_line(error)}")
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


def _at_its_place(ours: Mapping[int, PawlError], supervisor: Supervisor) -> PawlError:
    """The first rank's error, which keeps its own words."""
    rank, error = next(iter(ours.items()))
    error.details |= {"rank": rank, "node": supervisor.places.node_of(rank)}
    return error


def _interrupted(
    job: TrainingJob, asked: StopRequest, known: AttemptInterruptedError | None = None
) -> AttemptInterruptedError:
    text = (
        known.message
        if known
        else f"Run {job.run!r} was interrupted before its workers came to the end of a step."
    )
    details = known.details if known else {}
    return AttemptInterruptedError(f"{asked.told}: {text}", **{**details, "cause": asked.cause})
