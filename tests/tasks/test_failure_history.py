from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from ray_workers.policies.run_history import cause_of_spell
from tasks import failure_history
from tasks.failure_history import spells_of

START = datetime(2026, 11, 1, tzinfo=UTC)


def state(kind: StateType, hour: float, message: str = "") -> State:
    return State(type=kind, timestamp=START + timedelta(hours=hour), message=message)


def run(last: State, *, run_count: int = 1, **parameters: object) -> FlowRun:
    return FlowRun(
        id=uuid4(), flow_id=uuid4(), state=last, start_time=START, run_count=run_count,
        parameters=parameters,
    )  # fmt: skip


def test_each_time_that_it_ran_has_its_own_end() -> None:
    raised = "Flow run encountered an exception: TrainingFailedError: Training of run 'r' failed on rank 0: {}"
    states = [
        state(StateType.COMPLETED, 9),
        state(StateType.PENDING, 0),
        state(StateType.RUNNING, 1),
        state(StateType.SCHEDULED, 3, raised.format("ValueError: mine")),
        state(StateType.RUNNING, 3),
        state(StateType.CRASHED, 5, "Process exited with status code: -9"),
        state(StateType.SCHEDULED, 5),
        state(StateType.RUNNING, 6),
    ]
    flow_run = run(states[0], run_count=3, scaling={"workers": 8})
    found = list(spells_of(flow_run, states))
    begin = START.timestamp()
    assert [(s.run_count, (s.begin_s - begin) / 3600, s.ended) for s in found] == [
        (1, 1, "failed"),
        (2, 3, "crashed"),
        (3, 6, "completed"),
    ]
    assert [cause_of_spell(s.ended, s.message) for s in found] == ["user", "infrastructure", "none"]
    assert {(s.flow_run_id, s.workers) for s in found} == {(str(flow_run.id), 8)}


def test_a_run_of_one_try_needs_no_history() -> None:
    (found,) = spells_of(run(state(StateType.CRASHED, 2, "gone")), None)
    assert (found.run_count, found.ended, found.message, found.workers) == (1, "crashed", "gone", 2)
    assert found.end_s == (START + timedelta(hours=2)).timestamp()
    (running,) = spells_of(run(state(StateType.RUNNING, 0)), None)
    assert (running.end_s, running.ended) == (None, None)


def test_of_a_run_of_several_tries_nothing_is_made_up() -> None:
    assert list(spells_of(run(state(StateType.CRASHED, 2), run_count=3), None)) == []


def test_a_history_ends_where_tries_are_not_looked_at_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashed = [state(StateType.RUNNING, 0), state(StateType.CRASHED, 1)]
    quiet, retried = run(state(StateType.COMPLETED, 1)), run(crashed[-1], run_count=2)
    runs = [quiet, retried, quiet, retried, quiet, quiet]
    monkeypatch.setattr(failure_history, "_MOST_HISTORIES", 1)
    monkeypatch.setattr(failure_history, "_alike", lambda *_: runs)
    client: Any = SimpleNamespace(
        read_flow_run=lambda _: None, read_flow_run_states=lambda _: crashed
    )
    found = list(failure_history._spells(client, quiet.id))
    assert [spell.ended for spell in found] == ["completed", "crashed", "completed"]
