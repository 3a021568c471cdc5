"""The beginning of an attempt, as a flow sees it: parameters checked, run opened, fence taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.adopting import JobOffer, base_fence
from ray_workers.config import Retention, Saving, Scaling, Validation, check_training_config
from ray_workers.entrypoints import (
    add_code_dir,
    load_entrypoint,
    load_function,
    shadowed_packages,
)
from ray_workers.opening_attempt import (
    Applicant,
    check_not_overtaken,
    final_version,
    open_attempt,
)
from ray_workers.resume import ResumeSpec
from ray_workers.store.attempts import (
    RAY_JOB,
    RESUME,
    TAKEOVER,
    process_is_gone,
    read_run,
    this_process,
)
from ray_workers.store.errors import (
    FenceLostError,
    PawlError,
    RefusedError,
    RetryableError,
    RunNotFoundError,
)
from ray_workers.store.keys import check_run_name
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import load_manifest
from tasks.blocks import storage_target, use_cluster
from tasks.cluster_job import JobWish, adopt_job, wait_for_cluster
from tasks.events import announce_schedule
from tasks.run_identity import (
    RunIdentity,
    current_identity,
    forbid_retries,
    mark_crashed,
    put_back_retries,
    slow_heart,
    who_trains,
)
from tasks.scheduled import with_deployed

__all__ = ["Attempt", "TrainRequest", "describe_request", "take_fence"]

_SLOW_HEART = (
    "This flow run gives Prefect %s, and Pawl's automations call a run with the tag pawl dead after 150 "
    "seconds of silence: set PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 in the deployment's job variables (env)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What the user asked for, checked, with nothing created yet."""

    identity: RunIdentity
    entrypoint: str
    config: Mapping[str, Any]
    run: str
    target: StorageTarget
    scaling: Scaling
    saving: Saving
    validation: Validation
    retention: Retention
    resume: ResumeSpec
    takeover: bool
    code_dir: Path

    @property
    def by(self) -> dict[str, Any]:
        """Who writes the records of its attempts."""
        marks = {RAY_JOB: self.scaling.jobs_address is not None, TAKEOVER: self.takeover}
        asked = {} if self.resume.mode == "auto" else {RESUME: self.resume.text}
        return {**this_process(), **{name: True for name, held in marks.items() if held}, **asked}

    @property
    def job_wish(self) -> JobWish | None:
        """What to start, or to find again, as a Ray job; None: the driver is this process."""
        if self.scaling.jobs_address is None:
            return None
        return JobWish(
            address=self.scaling.jobs_address,
            identity=self.identity,
            by=self.by,
            target=self.target,
            run=self.run,
            entrypoint=self.entrypoint,
            config=self.config,
            goes_on=self.resume.mode == "auto" and not self.takeover,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that owns its run, or the finding that there is nothing to do."""

    request: TrainRequest
    run_id: str
    fence: int
    by: Mapping[str, Any]
    finished: str | None = None
    """A sentence, when the run was trained to its end before and nothing changed since."""
    overtaken: FenceLostError | None = None
    """Why there is nothing to do, when another flow run owns the run that this process had."""
    job: JobOffer | None = None
    """The Ray job that was training already when this try of the flow run came, and that it follows from here."""

    @property
    def trains(self) -> bool:
        return self.finished is None and self.overtaken is None


def describe_request(values: Mapping[str, Any]) -> TrainRequest:
    """Check the flow's parameters, so that bad input fails before anything is created.

    Raises:
        InvalidInputError: one sentence on the first value that is wrong.
    """
    identity = current_identity()
    put_back_retries(identity)
    try:
        values = with_deployed(values)
        code_dir = add_code_dir(values["code_dir"])
        request = TrainRequest(
            identity=identity,
            entrypoint=values["entrypoint"],
            config=check_training_config(values["config"]),
            run=check_run_name(values["run"] or identity.flow_run_id),
            target=storage_target(values["storage"]),
            scaling=use_cluster(values["scaling"]),
            saving=values["saving"],
            validation=values["validation"],
            retention=values["retention"],
            resume=ResumeSpec.parse(values["resume"]),
            takeover=values["takeover"],
            code_dir=code_dir,
        )
        load_entrypoint(request.entrypoint)
        _check_references(request.validation)
    except RefusedError:
        forbid_retries(identity)
        raise
    announce_schedule(request.run, identity)
    if (beat_s := slow_heart()) is not None:
        get_run_logger().warning(_SLOW_HEART, beat_s)
    for line in shadowed_packages(code_dir):
        get_run_logger().warning(line)
    return request


def _check_references(validation: Validation) -> None:
    """A probe or check that cannot be loaded is said now, and not after the first save."""
    for what, references in (("probe", (validation.probe,)), ("check", validation.checks)):
        for reference in references:
            if reference is not None:
                load_function(reference, what)


@task(cache_policy=NO_CACHE, task_run_name="take-fence")
def take_fence(request: TrainRequest) -> Attempt:
    """Open the storage and the run, and take the fence: from here on no older attempt can commit.

    Raises:
        RunBusyError: another flow run trains under this name.
        ClusterUnavailableError: the cluster that the run goes on with did not come back in ten minutes.
        StoreRefusedError, StoreUnavailableError, NewerFormatError …: the storage cannot be used.
    """
    logger = get_run_logger()
    by = request.by
    applicant = Applicant(
        flow_run_id=request.identity.flow_run_id,
        run_count=request.identity.run_count,
        by=by,
        takeover=request.takeover,
        still_running=who_trains,
    )
    try:
        root = request.target.open(create=True)
        wait_for_cluster(request.scaling, root.store, request.run)
        offer = None if request.job_wish is None else adopt_job(request.job_wish)
        if offer is not None:
            return _adopted(request, offer)
        finished = _finished_before(root.store, request, applicant)
        if finished is not None:
            logger.info(finished)
            return Attempt(request=request, run_id="", fence=0, by=by, finished=finished)
        log, fence = open_attempt(root.store, request.run, request.resume, applicant)
    except FenceLostError as error:
        return Attempt(request=request, run_id="", fence=0, by=by, overtaken=error)
    except PawlError as error:
        if not isinstance(error, RetryableError):
            forbid_retries(request.identity)
        raise
    _bury_dead(log.state, fence)
    logger.info("Run %s at %s: this attempt owns it with fence %d", request.run, root.url, fence)
    return Attempt(request=request, run_id=str(log.state.run_id), fence=fence, by=by)


def _adopted(request: TrainRequest, offer: JobOffer) -> Attempt:
    state = read_run(request.target.open().store, request.run)
    return Attempt(
        request=request,
        run_id=str(state.run_id),
        fence=base_fence(state, offer.fence),
        by=request.by,
        job=offer,
    )


def _bury_dead(state: RunState, fence: int) -> None:
    """Prefect may still show another flow run as running whose process is provably gone."""
    own = state.attempts[fence].flow_run_id
    in_order = (state.attempts[each] for each in sorted(state.attempts))
    # Of each flow run the newest try: one that was killed, and never closed, says nothing about a later one that lives.
    for other in {each.flow_run_id: each for each in in_order}.values():
        if other.flow_run_id != own and other.outcome is None and process_is_gone(other.by):
            mark_crashed(
                other.flow_run_id,
                f"The process of this attempt is gone; flow run {own} goes on with run {state.run!r}.",
            )


def _finished_before(store: Any, request: TrainRequest, applicant: Applicant) -> str | None:
    """A sentence if the run was trained to its end with exactly this configuration.

    Raises:
        FenceLostError: by others, who took it over from this process.
    """
    if request.resume.mode != "auto":
        return None
    try:
        state = read_run(store, request.run)
    except RunNotFoundError:
        return None
    check_not_overtaken(state, applicant)
    final = final_version(state)
    if final is None:
        return None
    try:
        manifest = load_manifest(store, request.run, final)
    except PawlError:
        return None
    if dict(manifest.config) != dict(request.config):
        return None
    return (
        f"Run {request.run!r} is finished: {manifest.progress.epoch} epochs, {final.step} steps, version "
        f"{final.number} ({final.rung}). Nothing to train. Raise the number of epochs to train on (a learning-rate schedule "
        "keeps the length that it was made with: docs/how-to.md, Train for more epochs), or choose another run name to start "
        "afresh."
    )
