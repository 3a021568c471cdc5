"""What is left to do when a cancelled flow run's process is gone: the Ray job that it followed must not train on."""

from __future__ import annotations

import logging
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow

from ray_workers.adopting import base_fence, job_name
from ray_workers.config import Scaling
from ray_workers.ray_jobs import JobServer, RayJobs
from ray_workers.store.attempts import read_run
from ray_workers.store.run_state import RunState
from tasks.blocks import storage_target, use_cluster
from tasks.run_identity import as_scheduled
from tasks.scheduled import fill_gaps

__all__ = ["stop_job_left_behind"]

_log = logging.getLogger(__name__)
_AT_WORK = ("PENDING", "RUNNING")


def stop_job_left_behind(
    flow: Flow[Any, Any],  # noqa: ARG001 - the signature is Prefect's
    flow_run: FlowRun,
    state: State[Any],  # noqa: ARG001 - the same
) -> None:
    """A hook of Prefect's, run in a process of its own. The flow stops its job itself, if it is given the time.

    Never raises: the flow run is cancelled already, and an error here would hide that.
    """
    try:
        given = _as_the_flow_takes_them(flow_run)
        scaling = use_cluster(given["scaling"])
        if scaling.jobs_address is None:
            return
        store = storage_target(given["storage"]).open().store
        run = read_run(store, given["run"] or str(flow_run.id))
        _stop(RayJobs(scaling.jobs_address), run, str(flow_run.id), flow_run.run_count)
    except Exception as error:  # noqa: BLE001 - the outermost frame; Prefect's server may be what does not answer
        _log.warning("Whether a Ray job is left of flow run %s is unknown: %s", flow_run.id, error)


def _as_the_flow_takes_them(flow_run: FlowRun) -> dict[str, Any]:
    """What says which job it is: the run's own parameters, and what its schedule left empty from the deployment."""
    given, scheduled = flow_run.parameters, as_scheduled(flow_run)
    named = {name: given.get(name) for name in ("run", "storage")}
    if scheduled is not None:
        return fill_gaps({**named, "scaling": Scaling()}, scheduled)
    return {**named, "scaling": Scaling.model_validate(given.get("scaling") or {})}


def _stop(server: JobServer, state: RunState, flow_run_id: str, run_count: int) -> None:
    """Stop the job of the run's newest attempt, if that try of the flow run owns it: a newer owner's is not ours to stop."""
    newest = max(state.attempts.values(), key=lambda attempt: attempt.fence, default=None)
    if newest is None or newest.flow_run_id != flow_run_id or newest.run_count > run_count:
        return
    name = job_name(str(state.run_id), base_fence(state, newest.fence))
    if server.status(name) in _AT_WORK:
        _log.info("Stopping Ray job %s: its flow run was cancelled", name)
        server.stop(name)
