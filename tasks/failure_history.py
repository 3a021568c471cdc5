"""Prefect's own history of this deployment's flow runs, as evidence of how often training fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterStartTime,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort

from ray_workers.attempt_chains import is_passed_on
from ray_workers.policies.failure_rate import Evidence
from ray_workers.policies.run_history import Spell, evidence_elsewhere
from ray_workers.store.attempts import read_run
from ray_workers.store.clock import epoch_seconds
from tasks.attempt import Attempt

__all__ = ["failures_elsewhere", "spells_of"]

_DAYS = 60
_MOST_RUNS = 100
_MOST_HISTORIES = 25
"""Flow runs that were tried more than once and whose tries are looked at. The first one more ends the history: were it left out
alone, and older quiet ones counted, failures would seem rarer than they are."""
_DEFAULT_WORKERS = 2
_ENDS = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CRASHED": "crashed",
    "CANCELLED": "cancelled",
    "CANCELLING": "cancelled",
    "SCHEDULED": "failed",
}
"""By the type of the state that follows RUNNING; an in-process retry is SCHEDULED with the failure's message."""
_log = logging.getLogger(__name__)


def failures_elsewhere(attempt: Attempt) -> tuple[Evidence, ...]:
    """Of flow runs of the same deployment, or of the same run name when there is none; without what the run's log has.

    Never raises: a history that cannot be read costs the history and not the training.
    """
    request = attempt.request
    if request.saving.interval == "fixed":
        return ()
    try:
        state = read_run(request.target.open().store, request.run)
        tries = {a.fence: (a.flow_run_id, a.run_count) for a in state.attempts.values()}
        open_ended = {tries[a.fence] for a in state.attempts.values() if is_passed_on(state, a)}
        own = (request.identity.flow_run_id, request.identity.run_count)
        with get_client(sync_client=True) as client:
            spells = list(_spells(client, UUID(request.identity.flow_run_id)))
        return evidence_elsewhere(
            spells,
            in_log={*tries.values(), own},
            open_ended=open_ended,
            now_s=epoch_seconds(),
        )
    except Exception as error:  # noqa: BLE001 - as said above
        _log.warning("Prefect's history of runs could not be read: %s", error)
        return ()


def _spells(client: SyncPrefectClient, flow_run_id: UUID) -> Iterator[Spell]:
    histories = 0
    for run in _alike(client, client.read_flow_run(flow_run_id)):
        states: Sequence[State] | None = None
        if run.run_count > 1:
            histories += 1
            if histories > _MOST_HISTORIES:
                return
            states = client.read_flow_run_states(run.id)
        yield from spells_of(run, states)


def _alike(client: SyncPrefectClient, own: FlowRun) -> list[FlowRun]:
    since = datetime.now(UTC) - timedelta(days=_DAYS)  # noqa: TID251 - Prefect's own clock, for a filter
    wanted = FlowRunFilter(start_time=FlowRunFilterStartTime(after_=since))
    flow = None
    if own.deployment_id is not None:
        wanted.deployment_id = FlowRunFilterDeploymentId(any_=[own.deployment_id])
    else:
        flow = FlowFilter(id=FlowFilterId(any_=[own.flow_id]))
    found = client.read_flow_runs(
        flow_filter=flow,
        flow_run_filter=wanted,
        sort=FlowRunSort.START_TIME_DESC,
        limit=_MOST_RUNS,
    )
    if own.deployment_id is not None:
        return found
    # Whatever else was started by hand may have run anywhere.
    return [run for run in found if run.parameters.get("run") == own.parameters.get("run")]


def spells_of(run: FlowRun, states: Sequence[State] | None) -> Iterator[Spell]:
    """Each time that it ran; `states` of its whole history, or None for its last time alone."""
    workers = _workers(run)
    if states is None:
        if run.start_time is not None and run.run_count == 1 and run.state is not None:
            ended = None if run.state.is_running() else run.state
            yield _spell(run, 1, run.start_time, ended, workers)
        return
    ordered = sorted(states, key=lambda state: state.timestamp)
    count = 0
    for number, state in enumerate(ordered):
        if state.type.value == "RUNNING":
            count += 1
            after = ordered[number + 1] if number + 1 < len(ordered) else None
            yield _spell(run, count, state.timestamp, after, workers)


def _spell(run: FlowRun, count: int, begin: datetime, ended: State | None, workers: int) -> Spell:
    return Spell(
        flow_run_id=str(run.id),
        run_count=count,
        begin_s=begin.timestamp(),
        end_s=None if ended is None else ended.timestamp.timestamp(),
        workers=workers,
        ended=None if ended is None else _ENDS.get(ended.type.value),
        message="" if ended is None else ended.message or "",
    )


def _workers(run: FlowRun) -> int:
    scaling = run.parameters.get("scaling")
    found = scaling.get("workers") if isinstance(scaling, dict) else None
    return found if isinstance(found, int) and found > 0 else _DEFAULT_WORKERS
