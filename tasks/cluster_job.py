"""Training as a Ray job: started or found again, followed to its end, stopped when the flow run is cancelled.

The job outlives the flow's process. So only a person's wish ends it: a flow that dies, or is told by its machine to go,
leaves it training for the next try of the flow run to find.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from prefect.logging import get_run_logger

from ray_workers.adopting import JobOffer, base_fence, job_name, offered_job
from ray_workers.config import Scaling
from ray_workers.following import Followed, Follower, stop_and_wait
from ray_workers.job_driver import ENTRYPOINT, SPEC_VARIABLE, STOP_GRACE_S
from ray_workers.job_spec import JobSpec, fingerprint
from ray_workers.messages import PawlEvent
from ray_workers.ray_cluster import check_head, shipped_code
from ray_workers.ray_jobs import RayJobs
from ray_workers.store.attempts import adopt_attempt, process_is_gone, read_run
from ray_workers.store.errors import (
    ClusterUnavailableError,
    FenceLostError,
    MissingError,
    PawlError,
    RunNotFoundError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import AttemptState, RunState
from ray_workers.training_job import TrainingJob
from tasks.run_identity import (
    LOG_LINES,
    LogLine,
    RunIdentity,
    is_being_cancelled,
    newest_log_lines,
    who_trains,
)

__all__ = ["JobWish", "adopt_job", "job_goes_on", "run_job", "wait_for_cluster"]

_FINGERPRINT = "pawl.fingerprint"
_CANCEL_S = 22.0
"""Prefect kills a cancelled flow after 30 s."""

_AWAY_S = 600.0
"""How long a cluster may be away when a try of a run begins that it has trained before."""
_ASK_AGAIN_S = 5.0
_SAY_AGAIN_S = 60.0
_CLOCKS_DIFFER_S = 2.0
"""The cluster's from that of the flow's machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWish:
    """What a flow run wants trained as a Ray job."""

    address: str
    identity: RunIdentity
    by: Mapping[str, Any]
    target: StorageTarget
    run: str
    entrypoint: str
    config: Mapping[str, Any]
    goes_on: bool
    """It asks for the run as it stands, not for another version of it or a fresh start."""

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.entrypoint, self.config, self.target.url)


def wait_for_cluster(scaling: Scaling, store: ObjectStore, run: str) -> None:
    """Return when the cluster answers; for a run with nothing to lose yet nobody waits: a wrong address is said at once.

    The few tries that a flow has left would be over long before a head is up again.

    Raises:
        ClusterUnavailableError: it was silent for longer than ten minutes.
        InvalidInputError: it refuses the token of this process.
    """
    address = scaling.ray_address
    if address is None or not _has_begun(store, run):
        return
    ask = RayJobs if scaling.jobs_address is not None else check_head
    began = time.monotonic()
    say_at = began
    while True:
        try:
            ask(scaling.jobs_address or address)
        except ClusterUnavailableError as error:
            now = time.monotonic()
            if now - began >= _AWAY_S:
                raise
            if now >= say_at:
                say_at = now + _SAY_AGAIN_S
                get_run_logger().warning(
                    "%s Run %s waits for it, %.0f s more", error, run, began + _AWAY_S - now
                )
            time.sleep(_ASK_AGAIN_S)
        else:
            return


def _has_begun(store: ObjectStore, run: str) -> bool:
    try:
        state = read_run(store, run)
    except RunNotFoundError:
        return False
    return bool(state.versions) or state.open_fence is not None


def adopt_job(wish: JobWish) -> JobOffer | None:
    """Take over the job that trains this very thing already; None: there is none, start an attempt.

    Raises:
        ClusterUnavailableError, InvalidInputError: there is no job server, or it refuses this process.
        FenceLostError: the attempt was lost to another one just now.
    """
    server = RayJobs(wish.address)
    own = wish.identity.flow_run_id
    try:
        log = RunLog(wish.target.open().store, wish.run, by=wish.by, patience_s=120.0)
    except MissingError:
        return None
    offer = offered_job(log.state, own, _is_dead)
    if offer is None:
        return None
    status = server.status(offer.name)
    if log.state.attempts[offer.fence].flow_run_id != own:
        same = server.metadata(offer.name).get(_FINGERPRINT) == wish.fingerprint
        if not (wish.goes_on and same):
            return None
    if offer.ended:
        return offer if status == "SUCCEEDED" else None
    if status not in ("PENDING", "RUNNING"):
        return None
    adopt_attempt(log, offer.fence, flow_run_id=own, run_count=wish.identity.run_count)
    get_run_logger().info(
        "Ray job %s trains already: this flow run follows it from here, with fence %d",
        offer.name,
        offer.fence,
    )
    return offer


def run_job(
    wish: JobWish,
    job: TrainingJob,
    offer: JobOffer | None,
    on_event: Callable[[PawlEvent], None],
) -> None:
    """Start the job, unless it was adopted, and follow it to its end.

    Raises:
        As `Follower.follow`. A cancelled flow run stops the job first.
    """
    server = RayJobs(wish.address)
    job = replace(job, target=job.target.for_other_machines())
    name = offer.name if offer is not None else job_name(job.run_id, job.fence)
    told = newest_log_lines(wish.identity) if offer is not None else []
    if offer is None:
        _submit(server, name, job, wish)
    followed = Followed(
        name=name,
        keys=job.target.credentials,
        on_event=_unheard(on_event, told),
        still_ours=_owner_check(wish, offer.fence if offer is not None else job.fence),
    )
    try:
        Follower(server, followed).follow()
    except Exception:
        raise
    except BaseException as interruption:
        if isinstance(interruption, KeyboardInterrupt) or is_being_cancelled(wish.identity):
            get_run_logger().info("Stopping Ray job %s", name)
            stop_and_wait(server, name, _CANCEL_S)
        raise


def job_goes_on(address: str, run_id: str, fence: int) -> bool:
    """Whether the job of that attempt may still train: it is at work, or nobody can tell."""
    try:
        return RayJobs(address).status(job_name(run_id, fence)) in ("PENDING", "RUNNING")
    except PawlError:  # a refused token too: it says nothing of the job
        return True


def _submit(server: RayJobs, name: str, job: TrainingJob, wish: JobWish) -> None:
    environment = {
        SPEC_VARIABLE: JobSpec.of(job).encode(),
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S),
    }
    runtime_env = {**shipped_code(job.code_dir), "env_vars": environment}
    server.submit(
        name, ENTRYPOINT, runtime_env, {"pawl.run": job.run, _FINGERPRINT: wish.fingerprint}
    )
    get_run_logger().info("Ray job %s was started at %s", name, wish.address)


def _is_dead(attempt: AttemptState) -> bool:
    return process_is_gone(attempt.by) or who_trains(attempt) is None


def _unheard(
    on_event: Callable[[PawlEvent], None], told: Sequence[LogLine]
) -> Callable[[PawlEvent], None]:
    """What an earlier try of this flow run has told already is not told again.

    It is known by its text: the newest lines may be Prefect's own, or of this try, and later than what was heard last.

    Args:
        on_event: tells an event, and logs its message.
        told: what the flow run has logged, newest first.
    """
    since = told[-1].at if len(told) >= LOG_LINES else None
    left: dict[str, list[float]] = {}
    for line in reversed(told):
        left.setdefault(line.message, []).append(line.at)

    def tell(event: PawlEvent) -> None:
        at = datetime.fromisoformat(event.at).timestamp()
        if since is not None and at <= since:
            return
        times = left.get(event.message, [])
        # A line from before the event told of another one, in the same words.
        found = next((line for line in times if line >= at - _CLOCKS_DIFFER_S), None)
        if found is None:
            on_event(event)
        else:
            times.remove(found)

    return tell


def _owner_check(wish: JobWish, fence: int) -> Callable[[], None]:
    ours = (wish.identity.flow_run_id, wish.identity.run_count)

    log: RunLog | None = None

    def check() -> None:
        nonlocal log
        try:
            # Opened once: from then on a check costs one request, however long the log is.
            log = log or RunLog(wish.target.open().store, wish.run, by=wish.by, patience_s=20.0)
            state = log.refresh()
        except PawlError:
            return  # the store is away; the job has its own patience with it
        holder = _holder(state, fence)
        if holder is not None and (holder.flow_run_id, holder.run_count) != ours:
            by = {"flow_run_id": holder.flow_run_id, "run_count": holder.run_count}
            raise FenceLostError(
                f"Run {wish.run!r} belongs to try {holder.run_count} of flow run {holder.flow_run_id} now; this one "
                "ends.",
                fence=fence,
                by={**by, "fence": holder.fence},
            )

    return check


def _holder(state: RunState, fence: int) -> AttemptState | None:
    """Who owns the run now; None when nobody does: our attempt was closed by its own job."""
    newest = state.open_attempt
    if newest is not None:
        return newest
    last = max(state.attempts.values(), key=lambda a: a.fence)
    return None if base_fence(state, last.fence) == base_fence(state, fence) else last
