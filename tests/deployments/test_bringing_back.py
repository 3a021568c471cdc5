from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.events.filters import EventFilter
from prefect.server.events.filters import EventFilter as ServerFilter

from deployments import bringing_back
from deployments.automations import MIN_SILENCE_S, TAG, ComeBack, automations
from deployments.bringing_back import BROUGHT_BACK, GAVE_UP, bring_back

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
RULES = ComeBack()


class Server:
    """As much of Prefect's client as is asked."""

    def __init__(self) -> None:
        self.runs: list[FlowRun] = []
        self.beats: dict[str, datetime] = {}
        self.given_up: list[str] = []
        self.refuses = False
        self.proposed: list[tuple[str, str]] = []

    def add(
        self, name: str, kind: StateType, age_s: float, *, tries: int = 1, deployed: bool = True
    ):
        state: State[Any] = State(type=kind, timestamp=NOW - timedelta(seconds=age_s))
        run = FlowRun(
            id=uuid4(), flow_id=uuid4(), name=name, run_count=tries, state=state, state_type=kind,
            deployment_id=uuid4() if deployed else None, tags=[TAG],
        )  # fmt: skip
        self.runs.append(run)
        return run

    def beat(self, run: FlowRun, age_s: float) -> None:
        self.beats[f"prefect.flow-run.{run.id}"] = NOW - timedelta(seconds=age_s)

    def read_flow_runs(self, *, flow_run_filter, limit, offset, **_sort):
        assert flow_run_filter.tags.all_ == [TAG]
        wanted, ids = (
            flow_run_filter.state.type.any_,
            flow_run_filter.id and flow_run_filter.id.any_,
        )
        found = [r for r in self.runs if r.state_type in wanted and (ids is None or r.id in ids)]
        return found[offset : offset + limit]

    def read_events(self, wanted: EventFilter, limit: int):
        assert limit <= 50
        ServerFilter.model_validate(wanted.model_dump(mode="json"))
        assert wanted.resource is not None
        if wanted.resource.id:
            (resource,) = wanted.resource.id
            beat = self.beats.get(resource)
            return SimpleNamespace(events=[SimpleNamespace(occurred=beat)] if beat else [])
        labels = [{"prefect.resource.id": f"prefect.flow-run.{each}"} for each in self.given_up]
        events = [SimpleNamespace(payload={"triggering_labels": each}) for each in labels]
        return SimpleNamespace(events=events, next_page=None)

    def set_flow_run_state(self, flow_run_id, state: State, *, force: bool = False):
        assert not force
        if self.refuses:
            return SimpleNamespace(
                status=SetStateStatus.ABORT, details=SimpleNamespace(reason="it is over")
            )
        (run,) = [each for each in self.runs if each.id == flow_run_id]
        self.proposed.append((run.name, state.name or ""))
        return SimpleNamespace(status=SetStateStatus.ACCEPT, details=None)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(bringing_back, "epoch_seconds", NOW.timestamp)
    return Server()


def told(server: Server, meanwhile=lambda: None) -> list[str]:
    """What is told, when `meanwhile` happens during the watch."""
    said: list[str] = []

    def sleep(seconds: float) -> None:
        assert seconds == MIN_SILENCE_S
        meanwhile()

    bring_back(server, RULES, said.append, sleep)  # type: ignore[arg-type]
    return said


def test_what_was_left_behind_is_brought_back_and_told_in_a_line_each(server):
    silent = server.add("silent", StateType.RUNNING, 9000)
    server.beat(silent, 600)
    server.add("crashed", StateType.CRASHED, 600)
    server.add("by-hand", StateType.CANCELLED, 600)
    server.add("on-its-own", StateType.CRASHED, 600, deployed=False)
    server.beat(server.add("alive", StateType.RUNNING, 9000), 20)
    said = told(server)
    assert server.proposed == [
        ("silent", "Crashed"),
        ("silent", "AwaitingRetry"),
        ("crashed", "AwaitingRetry"),
    ]
    assert said[0] == "Flow runs that seem to be left behind: 2. Watched for 90 s first."
    assert [line.startswith(BROUGHT_BACK) for line in said] == [False, True, True]
    assert "'silent', Running since 2026-11-29 09:30 UTC, now Crashed (No heart" in said[1]
    assert "now AwaitingRetry (Crashed, unanswered; try 2 of 5.)" in said[2]


def test_a_flow_that_lived_on_while_the_server_was_down_is_let_be(server):
    run = server.add("survivor", StateType.RUNNING, 9000)
    server.beat(run, 600)
    assert len(told(server, lambda: server.beat(run, 599))) == 1  # a beat, by whatever clock
    assert server.proposed == []


def test_what_an_automation_or_a_person_answered_during_the_watch_is_let_be(server):
    run = server.add("crashed", StateType.CRASHED, 600)

    def answered() -> None:
        run.state = State(type=StateType.RUNNING)
        run.state_type = StateType.RUNNING

    told(server, answered)
    assert server.proposed == []


def test_without_such_runs_nothing_is_watched(server):
    server.beat(server.add("alive", StateType.RUNNING, 9000), 20)
    assert told(server, lambda: pytest.fail("it slept")) == []


def test_a_run_that_was_given_up_is_not_tried_again(server):
    server.given_up = [str(server.add("hopeless", StateType.CRASHED, 600).id)]
    assert told(server) == []
    assert GAVE_UP in {each.name for each in automations(RULES)}


def test_a_refusal_is_told_and_ends_that_run_alone(server):
    server.add("one", StateType.CRASHED, 600)
    server.add("two", StateType.CRASHED, 600)
    server.refuses = True
    said = told(server)
    assert [line.endswith("Prefect refused AwaitingRetry: it is over") for line in said[1:]] == [
        True,
        True,
    ]
