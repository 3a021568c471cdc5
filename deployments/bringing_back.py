"""Bringing back the flow runs that Pawl's automations missed because Prefect's server was down (`overdue` decides)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventResourceFilter,
)
from prefect.events.schemas.events import ResourceSpecification
from prefect.states import AwaitingRetry

from deployments.automations import MIN_SILENCE_S, PREFIX, TAG, ComeBack
from deployments.overdue import LOOK_BACK, Overdue, SeenRun, Step
from ray_workers.store.clock import epoch_seconds

__all__ = ["BROUGHT_BACK", "bring_back"]

BROUGHT_BACK = "Missed while Prefect's server was down: "
"""Begins each line about a run."""

GAVE_UP = f"{PREFIX}gave up"
"""The name of the automation that tells of it."""
_PAGE = 200
_MOST_PAGES = 5
_UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_FLOW_RUN = "prefect.flow-run."


def bring_back(
    client: SyncPrefectClient,
    rules: ComeBack,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Do for each run what an automation owes it, and tell it in a line; nothing is forced.

    What looks overdue is looked at again after three heartbeats: a flow that lived on while the server was down has beaten
    by then, and an automation whose wait was not forgotten has acted. Without such runs this returns at once.
    """
    overdue = Overdue(rules=rules, given_up=_given_up(client))
    first = {run.id: run for run in _look(client) if overdue.steps(run, _now())}
    if not first:
        return
    tell(
        f"Flow runs that seem to be left behind: {len(first)}. Watched for {MIN_SILENCE_S} s first."
    )
    sleep(MIN_SILENCE_S)
    for run in _look(client, ids=list(first)):
        if run == first[run.id]:
            tell(BROUGHT_BACK + _carry_out(client, run, overdue.steps(run, _now())))


def _carry_out(client: SyncPrefectClient, run: SeenRun, steps: tuple[Step, ...]) -> str:
    said = f"flow run {run.name!r}, {run.state.value.capitalize()} since {run.since:%Y-%m-%d %H:%M} UTC"
    for step in steps:
        answer = client.set_flow_run_state(run.id, _state(step))
        if answer.status != SetStateStatus.ACCEPT:
            reason = getattr(answer.details, "reason", None) or answer.status.value
            return f"{said}; Prefect refused {step.name or step.state.value.capitalize()}: {reason}"
        said += f", now {step.name or step.state.value.capitalize()} ({step.message})"
    return said


def _state(step: Step) -> State:
    if step.state == StateType.SCHEDULED:
        return AwaitingRetry(message=step.message)
    return State(
        type=step.state, name=step.name or step.state.value.capitalize(), message=step.message
    )


def _look(client: SyncPrefectClient, ids: list[UUID] | None = None) -> Iterator[SeenRun]:
    """Pawl's runs that are under way or have crashed, or those of `ids` that still are."""
    under_way = _filter(_UNDER_WAY, ids)
    crashed = _filter([StateType.CRASHED], ids)
    crashed.end_time = FlowRunFilterEndTime(after_=_now() - LOOK_BACK)
    for wanted in (under_way, crashed):
        for run in _read(client, wanted):
            if run.state is not None:
                yield _seen(client, run, run.state)


def _filter(states: list[StateType], ids: list[UUID] | None) -> FlowRunFilter:
    return FlowRunFilter(
        id=None if ids is None else FlowRunFilterId(any_=ids),
        tags=FlowRunFilterTags(all_=[TAG]),
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
    )


def _read(client: SyncPrefectClient, wanted: FlowRunFilter) -> Iterator[FlowRun]:
    for page in range(_MOST_PAGES):
        found = client.read_flow_runs(
            flow_run_filter=wanted,
            sort=FlowRunSort.START_TIME_DESC,
            limit=_PAGE,
            offset=page * _PAGE,
        )
        yield from found
        if len(found) < _PAGE:
            return


def _seen(client: SyncPrefectClient, run: FlowRun, state: State) -> SeenRun:
    signs = [state.timestamp]
    if state.type == StateType.RUNNING:
        newest = EventFilter(
            occurred=_lately(), resource=EventResourceFilter(id=[f"{_FLOW_RUN}{run.id}"])
        )
        signs += [event.occurred for event in client.read_events(newest, limit=1).events]
    return SeenRun(
        id=run.id,
        name=run.name,
        state=state.type,
        since=state.timestamp,
        last_sign=max(signs),
        tries=run.run_count,
        has_deployment=run.deployment_id is not None,
    )


def _given_up(client: SyncPrefectClient) -> frozenset[UUID]:
    wanted = EventFilter(
        occurred=_lately(),
        event=EventNameFilter(name=["prefect.automation.triggered"]),
        resource=EventResourceFilter(
            labels=ResourceSpecification({"prefect.resource.name": GAVE_UP})
        ),
    )
    page = client.read_events(wanted, limit=50)  # the most that Prefect gives
    found = list(page.events)
    for _ in range(_MOST_PAGES):
        if page.next_page is None:
            break
        page = client.read_events_page(str(page.next_page))
        found += page.events
    labels = [event.payload.get("triggering_labels") or {} for event in found]
    resources = [str(each.get("prefect.resource.id", "")) for each in labels]
    return frozenset(
        UUID(each.removeprefix(_FLOW_RUN)) for each in resources if each.startswith(_FLOW_RUN)
    )


def _lately() -> EventOccurredFilter:
    """Up to a day from now: the clock of the machine that a flow runs on may be ahead."""
    return EventOccurredFilter(since=_now() - LOOK_BACK, until=_now() + timedelta(days=1))


def _now() -> datetime:
    return datetime.fromtimestamp(epoch_seconds(), UTC)
