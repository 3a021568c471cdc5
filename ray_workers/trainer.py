"""The composition root of training: cluster, actors, agents, Ray's trainer; one attempt from resume point to end."""

from __future__ import annotations

import functools
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train import TrainingFailedError as RayTrainingFailedError
from ray.train.torch import TorchTrainer

from ray_workers.attempt_errors import (
    Took,
    as_ours,
    ended_as_asked,
    hung_error,
    interrupted_error,
)
from ray_workers.ending_clock import EndingClock
from ray_workers.fitting import Fitting
from ray_workers.job_parts import rate_now, supervision_of, time_up_at, worker_job_of
from ray_workers.messages import PawlEvent, StopRequest
from ray_workers.policies.elastic import WorkerRange
from ray_workers.policies.failure_rate import Evidence, FailureRate
from ray_workers.rate_watch import RateWatch
from ray_workers.ray_cluster import end_train_controllers, ray_cluster
from ray_workers.resizing import train_elastically
from ray_workers.supervisor import Supervisor
from ray_workers.train_worker import run_worker
from ray_workers.training_job import TrainingJob

__all__ = ["train"]

_SETTLE_S = 20.0
_POLL_S = 0.5
_COME_BACK_S = 2.0
"""For `fit` to notice that its controller was ended; it takes a part of a second."""
_HUNG_GRACE_S = 60.0
"""For Ray to notice that hung ranks were killed, and to end the others."""
_CTRL_C_GRACE_S = 6.0
"""A person at a terminal waits: all is over within ten seconds."""
_TERM_GRACE_S = 18.0
"""Prefect, Kubernetes and Ray kill 30 seconds after SIGTERM; the rest is for ending in order."""


def train(
    job: TrainingJob,
    *,
    on_event: Callable[[PawlEvent], None],
    elsewhere: Callable[[], Iterable[Evidence]] | None = None,
) -> None:
    """Train to the end. Called on the main thread, on which signals arrive and to which a local cluster is bound.

    `on_event` is called from another thread, one event at a time. An exception that a signal handler raises
    (`KeyboardInterrupt`, Prefect's `TerminationSignal` …) goes through when the workers have saved once more and ended,
    or when their grace is over. A second one goes through at once.

    `elsewhere` is asked now and then, on a thread of its own, how other runs on the same machines fared by now; without it
    the attempt keeps to what `job` knows of them.

    Raises:
        FenceLostError: a newer attempt took over.
        FailureBudgetSpentError: too many saves failed in a row.
        RankHungError: ranks took no step for far too long.
        StateMismatchError, InvalidInputError, DamageError …: what a worker raised, if it is one of ours.
        TrainingFailedError: the loop raised, or a worker died.
    """
    until = time_up_at(job)  # before Ray's start, which counts
    if job.scaling.ray_address is not None:
        job = replace(job, target=job.target.for_other_machines())
    clock = EndingClock()
    try:
        with (
            clock.after("Ray"),
            ray_cluster(job.scaling, job.code_dir),
            _rate_of(job, elsewhere) as rate,
        ):
            group = functools.partial(
                _train_group, on_event=on_event, clock=clock, until=until, rate=rate
            )
            if job.scaling.max_workers is None:
                group(job, None)
            else:
                train_elastically(job, group, on_event, until=until)
    finally:
        ended = clock.event()
        if ended is not None:
            on_event(ended)


@contextmanager
def _rate_of(
    job: TrainingJob, elsewhere: Callable[[], Iterable[Evidence]] | None
) -> Iterator[Callable[[], FailureRate | None]]:
    """What answers how often training fails by now, as long as it trains."""
    if elsewhere is None or job.saving.interval == "fixed":
        yield lambda: None
        return
    with RateWatch(lambda: rate_now(job, elsewhere())) as watch:
        yield lambda: watch.latest


def _train_group(
    job: TrainingJob,
    limits: WorkerRange | None,
    *,
    on_event: Callable[[PawlEvent], None],
    clock: EndingClock,
    until: float | None,
    rate: Callable[[], FailureRate | None],
) -> None:
    """Train with a fixed number of workers; of a range `limits`, until there is room for more."""
    clock.forget()
    with (
        clock.after("actors"),
        Supervisor(supervision_of(job, limits, on_event, until, rate)) as supervisor,
        tempfile.TemporaryDirectory(prefix="pawl-ray-") as scratch,
        _timed(clock, supervisor),
    ):
        fitting = Fitting(_trainer(job, limits, scratch).fit)
        try:
            _train(job, fitting, supervisor)
        finally:
            _end(fitting)


def _end(fitting: Fitting) -> None:
    """`fit` that is still at work, because a grace is over, comes back before Ray is left."""
    if not fitting.over(0):
        # On a thread: a cluster that is gone answers after a minute, and there is no such time.
        threading.Thread(target=end_train_controllers, name="pawl-end-fit", daemon=True).start()
        fitting.over(_COME_BACK_S)


@contextmanager
def _timed(clock: EndingClock, supervisor: Supervisor) -> Iterator[None]:
    """An interrupted attempt's clock runs from the request on; here its workers have ended, or their grace is over."""
    try:
        yield
    finally:
        if (asked := supervisor.interruption) is not None:
            clock.begin(asked.cause, supervisor.seconds_since_interruption)
            clock.mark("workers")


def _train(job: TrainingJob, fitting: Fitting, supervisor: Supervisor) -> None:
    try:
        _fit(job, fitting, supervisor)
    except Exception:
        raise
    except BaseException as signalled:
        supervisor.interrupt(_request(signalled, job.saving.grace_seconds))
        _wait_for_the_end(fitting, supervisor)
        raise
    supervisor.finish_validation(job.validation.timeout_seconds)


def _fit(job: TrainingJob, fitting: Fitting, supervisor: Supervisor) -> None:
    try:
        while not fitting.wait(_POLL_S):
            asked = supervisor.interruption
            if asked is not None and asked.grace_s == 0:
                raise interrupted_error(job, asked)
            hung = supervisor.hung
            if hung is not None and time.monotonic() - hung.at > _HUNG_GRACE_S:
                raise hung_error(job, hung)  # Ray could not even end it
    except (RayTrainingFailedError, RayActorError, OutOfMemoryError) as error:
        if not ended_as_asked(error):
            supervisor.fell()
        noticed_s, at = supervisor.places.gone_for_s(), time.monotonic()
        if supervisor.interruption is None:
            supervisor.settle(_SETTLE_S)
            supervisor.finish_validation(_SETTLE_S)
        took = Took(noticed_s=noticed_s, settled_s=time.monotonic() - at)
        raise as_ours(job, supervisor, error, took) from error


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


def _trainer(job: TrainingJob, limits: WorkerRange | None, scratch: str) -> TorchTrainer:
    scaling = job.scaling
    return TorchTrainer(
        # Bound, not passed as train_loop_config: that is kept and shown by Ray, and a target may carry credentials.
        functools.partial(run_worker, worker_job_of(job)),
        scaling_config=ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=scaling.resources_per_worker,
        ),
        # Pawl's own resume point is the only one; Ray's restart, which by default follows each preemption, would begin from
        # what this attempt was told at its start. Of a range, workers that do not come up are counted anew here.
        run_config=RunConfig(
            name=f"{job.run}-{job.fence}",
            storage_path=scratch,
            failure_config=FailureConfig(
                max_failures=0,
                max_preemption_failures=0,  # type: ignore[call-arg] # the class of Ray Train V2
                controller_failure_limit=-1 if limits is None else 0,
            ),
        ),
    )
