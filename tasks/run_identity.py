"""Who is running: the only reader of `prefect.runtime`, and of other flow runs' states."""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, FlowRunPolicy
from prefect.client.schemas.sorting import LogSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Crashed

from ray_workers.store.attempts import process_lives_here, this_process
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.run_state import AttemptState

__all__ = [
    "LOG_LINES",
    "LogLine",
    "RunIdentity",
    "Scheduled",
    "as_scheduled",
    "current_identity",
    "forbid_retries",
    "is_being_cancelled",
    "mark_crashed",
    "newest_log_lines",
    "policy_to_put_back",
    "put_back_retries",
    "running_for_s",
    "scheduled_run",
    "slow_heart",
    "unannounced_start",
    "who_trains",
]

_Answer = TypeVar("_Answer")

LOG_LINES = 1000
TAG = "pawl"
"""What marks a flow run as one that the automations look after."""
_SLOWEST_BEAT_S = 50
"""A third of the silence after which it is taken for dead."""
_ANSWER_S = 3.0
"""For a process that is being ended: it has 30 s in all, and Prefect's client tries for a minute by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    flow_run_id: str
    """Stable over in-process retries, the Retry button and automations."""
    name: str
    run_count: int
    """Which try of this flow run, from 1."""


def current_identity() -> RunIdentity:
    """Of the flow run that calls."""
    return RunIdentity(
        flow_run_id=str(flow_run.id),
        name=str(flow_run.name),
        run_count=int(flow_run.run_count or 1),
    )


def who_trains(attempt: AttemptState) -> str | None:
    """How to name the flow run of `attempt` if it is at work; None if it ended, or if nothing here knows of it.

    Prefect's word counts. Of a flow run that this Prefect does not know the process may still be seen, on this host.
    """
    found = _read(attempt.flow_run_id)
    if found is None:
        other = any(attempt.by.get(name) != value for name, value in this_process().items())
        seen = other and process_lives_here(attempt.by)
        return _unknown_here(attempt) if seen else None
    if found.state is None or found.state.is_final():
        return None
    if not (found.state.is_running() or found.state.is_pending() or found.state.is_cancelling()):
        return None
    return f"flow run {found.name!r} ({attempt.flow_run_id}, {found.state.name})"


def _unknown_here(attempt: AttemptState) -> str:
    return (
        f"flow run {attempt.flow_run_id}, which this Prefect does not know, in process {attempt.by['pid']} of this very "
        "host"
    )


def is_being_cancelled(identity: RunIdentity) -> bool:
    """Whether a person asked for the end, rather than the machine; unknown, or not known within 3 s, counts as not."""
    found = _answer_within(_ANSWER_S, lambda: _read(identity.flow_run_id))
    return found is not None and found.state is not None and found.state.is_cancelling()


def _answer_within(seconds: float, ask: Callable[[], _Answer | None]) -> _Answer | None:
    """What `ask` returns; None if it fails, or is not done in time: then its thread is left to itself."""
    answers: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(ask())
        except Exception:  # noqa: BLE001 - asked while the process is being ended; there is no time to sort out why
            answers.put(None)

    # In a copy of the context: it holds Prefect's settings, which say where the server is.
    context = contextvars.copy_context()
    threading.Thread(
        target=context.run, args=(run,), name="pawl-asking-prefect", daemon=True
    ).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return None


def running_for_s(identity: RunIdentity) -> float:
    """Seconds since this process began, or since the flow run did if that was later.

    Where Prefect does not say when that was it is the former, which is never less: a time limit is kept.
    """
    found: FlowRun | None = None
    with _costs_nothing("When this flow run began is unknown; it counts as old as its process"):
        found = _read(identity.flow_run_id)
    process_s = _process_age_s()
    if found is None or found.start_time is None:
        return process_s
    flow_s = epoch_seconds() - found.start_time.astimezone(UTC).timestamp()
    return max(0.0, min(process_s, flow_s))


def _process_age_s() -> float:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    at: float
    """Seconds since the epoch."""
    message: str


def newest_log_lines(identity: RunIdentity) -> list[LogLine]:
    """What this flow run wrote last, in all its tries, newest first; at most `LOG_LINES`. Nothing, if Prefect does not say."""
    found: list[LogLine] = []
    with _costs_nothing("What this flow run has told before is unknown, and told again"):
        found.extend(_read_log_lines(identity))
    return found


def _read_log_lines(identity: RunIdentity) -> list[LogLine]:
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(identity.flow_run_id)]))
    found: dict[UUID, LogLine] = {}  # by id: while pages are read, lines are added in front
    with get_client(sync_client=True) as client:
        while len(found) < LOG_LINES:
            page = client.read_logs(wanted, offset=len(found), sort=LogSort.TIMESTAMP_DESC)
            before = len(found)
            for line in page:
                found[line.id] = LogLine(at=line.timestamp.timestamp(), message=line.message)
            if len(found) == before:
                break
    return sorted(found.values(), key=lambda line: line.at, reverse=True)[:LOG_LINES]


def mark_crashed(flow_run_id: str, message: str) -> None:
    """Tell Prefect of a flow run whose process is provably gone and which it still holds to be running. Never raises."""
    with _costs_nothing(f"Prefect may still show flow run {flow_run_id} as running"):
        found = _read(flow_run_id)
        if found is not None and found.state is not None and found.state.is_running():
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(UUID(flow_run_id), Crashed(message=message), force=True)


def forbid_retries(identity: RunIdentity) -> None:
    """Let the coming failure be final: the same call would fail the same way again. Never raises, and so hides no failure."""
    policy = FlowRunPolicy(retries=0, retry_delay=0)
    with (
        _costs_nothing("This flow run may be retried, and fail the same way"),
        get_client(sync_client=True) as client,
    ):
        client.update_flow_run(UUID(identity.flow_run_id), empirical_policy=policy)


@contextmanager
def _costs_nothing(what: str) -> Iterator[None]:
    """For what training does not need of Prefect: if it fails, the log says `what` follows from that, and no more happens."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - its client raises whatever its libraries do
        get_run_logger().warning("%s: %s", what, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A flow run that a schedule started: its own parameters, and those of its deployment."""

    given: Mapping[str, Any]
    deployed: Mapping[str, Any]


def scheduled_run() -> Scheduled | None:
    """The calling flow run, if a schedule started it."""
    found = _read(str(flow_run.id or ""))
    return None if found is None else as_scheduled(found)


def as_scheduled(found: FlowRun) -> Scheduled | None:
    """Any flow run, if a schedule started it."""
    if not found.auto_scheduled or found.deployment_id is None:
        return None
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment(found.deployment_id)
        except ObjectNotFound:  # it was deleted since
            return None
    return Scheduled(given=found.parameters, deployed=deployment.parameters)


def slow_heart() -> str | None:
    """How often the calling flow run gives a sign of life, if that is too seldom for one that automations watch over."""
    beat_s = get_current_settings().flows.heartbeat_frequency
    if TAG not in (flow_run.tags or []) or (beat_s is not None and beat_s <= _SLOWEST_BEAT_S):
        return None
    return "no sign of life" if beat_s is None else f"a sign of life every {beat_s} seconds"


def unannounced_start(identity: RunIdentity) -> UUID | None:
    """Id of the state in which a schedule left the calling flow run; None if it was not a schedule that made the run."""
    found = _read(identity.flow_run_id)
    if found is None or not found.auto_scheduled:
        return None
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(found.id)
    return min(states, key=lambda state: state.timestamp).id if states else None


def put_back_retries(identity: RunIdentity) -> None:
    """Give the calling flow run the retries of its flow, if its own policy has none.

    The run form of Prefect's newer UI writes "no retries" into each run that it starts, unless somebody fills the field in
    (3.8.8, seen); and `forbid_retries` did so to a run that a person starts again after mending what was wrong.
    """
    context, found = FlowRunContext.get(), _read(identity.flow_run_id)
    if context is None or context.flow is None or found is None:
        return
    flow = context.flow
    policy = policy_to_put_back(found.empirical_policy, flow.retries or 0, flow.retry_delay_seconds)
    if policy is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(identity.flow_run_id), empirical_policy=policy)


def policy_to_put_back(
    given: FlowRunPolicy, retries: int, delay_s: float | list[float] | None
) -> FlowRunPolicy | None:
    """What the policy must be for the flow's own retries to hold; None if they do, or if the flow has none."""
    if given.retries != 0 or retries == 0:
        return None
    delay = delay_s[0] if isinstance(delay_s, list) else delay_s
    return given.model_copy(update={"retries": retries, "retry_delay": int(delay or 0)})


def _read(flow_run_id: str) -> FlowRun | None:
    try:
        wanted = UUID(flow_run_id)
    except ValueError:
        return None
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(wanted)
        except ObjectNotFound:
            return None
