"""What a run's own policy says about retries, and what its flow says; who trains already; what was told before a try.

Prefect's server may be away when it is asked.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, FlowRunPolicy, State
from prefect.client.schemas.sorting import LogSort
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelling, Completed, Crashed, Pending, Running

from ray_workers.store.attempts import this_process
from ray_workers.store.run_state import AttemptState
from tasks import run_identity
from tasks.run_identity import (
    LOG_LINES,
    RunIdentity,
    forbid_retries,
    is_being_cancelled,
    mark_crashed,
    newest_log_lines,
    policy_to_put_back,
    running_for_s,
    slow_heart,
    who_trains,
)


def test_a_form_that_says_no_retries_gets_those_of_the_flow():
    given = FlowRunPolicy(retries=0, retry_delay=0, pause_keys={"asked"})
    policy = policy_to_put_back(given, 3, 5)
    assert policy is not None
    assert (policy.retries, policy.retry_delay) == (3, 5)
    assert policy.pause_keys == {"asked"}


@pytest.mark.parametrize(
    ("given", "of_the_flow"),
    [
        (FlowRunPolicy(retries=1), 3),  # somebody filled it in
        (FlowRunPolicy(), 3),  # Prefect takes the flow's by itself
        (FlowRunPolicy(retries=0), 0),  # pawl train --retries 0
    ],
)
def test_what_somebody_said_stays(given, of_the_flow):
    assert policy_to_put_back(given, of_the_flow, 5) is None


def test_the_first_of_several_delays_is_used():
    policy = policy_to_put_back(FlowRunPolicy(retries=0), 2, [7.0, 60.0])
    assert policy is not None
    assert policy.retry_delay == 7


# --- who trains ------------------------------------------------------------------------------------------------------


def attempt(**by: Any) -> AttemptState:
    return AttemptState(
        fence=2, flow_run_id=str(uuid4()), run_count=1, incarnation=0, by=by, at="now"
    )


def parent() -> dict[str, Any]:
    """A process that lives, and is not this one."""
    fields = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    return {**this_process(), "pid": os.getppid(), "started": int(fields[19])}


def known(monkeypatch: pytest.MonkeyPatch, state: State[Any] | None) -> None:
    """Prefect knows the flow run in this state; None: not at all."""
    run = None if state is None else FlowRun(flow_id=uuid4(), name="calm-bee", state=state)
    monkeypatch.setattr(run_identity, "_read", lambda _: run)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (Running(), True),
        (Pending(), True),
        (Completed(), False),
        (Crashed(), False),
    ],
)
def test_prefects_word_counts_whatever_became_of_the_process(monkeypatch, state, named):
    known(monkeypatch, state)
    for by in (parent(), {"host": "another-host", "pid": 1}):
        assert ("calm-bee" in (who_trains(attempt(**by)) or "")) == named


def test_a_living_process_of_a_flow_run_of_another_prefect_is_named(monkeypatch):
    known(monkeypatch, None)
    assert f"process {os.getppid()} of this very host" in str(who_trains(attempt(**parent())))


def test_of_another_prefect_what_is_gone_elsewhere_or_this_process_itself_does_not_train(
    monkeypatch,
):
    known(monkeypatch, None)
    for by in (
        {**parent(), "pid": 2**22 + 1},
        {**parent(), "host": "another-host"},
        this_process(),
    ):
        assert who_trains(attempt(**by)) is None


# --- who asked for the end -------------------------------------------------------------------------------------------

MINE = RunIdentity(flow_run_id=str(uuid4()), name="n", run_count=1)


class Server:
    """Prefect's client for a server that answers each request with `answer()`."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_run(self, _: object) -> Any:
        return self.answer()


@pytest.mark.parametrize(("state", "cancelled"), [(Cancelling(), True), (Running(), False)])
def test_who_asked_for_the_end_is_asked_of_prefect(monkeypatch, state, cancelled):
    server = Server(lambda: FlowRun(flow_id=uuid4(), state=state))
    monkeypatch.setattr(run_identity, "get_client", lambda **_: server)
    assert is_being_cancelled(MINE) == cancelled


def test_prefect_is_asked_with_the_settings_of_the_flow(monkeypatch):
    found = []
    server = Server(lambda: found.append(PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()))
    monkeypatch.setattr(run_identity, "get_client", lambda **_: server)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 41}):
        is_being_cancelled(MINE)
    assert found == [41]


def test_a_server_that_is_away_takes_little_of_the_time_that_a_process_has_left(monkeypatch):
    silent = threading.Event()
    server = Server(lambda: silent.wait(60) and FlowRun(flow_id=uuid4(), state=Cancelling()))
    monkeypatch.setattr(run_identity, "get_client", lambda **_: server)
    monkeypatch.setattr(run_identity, "_ANSWER_S", 0.2)
    began = time.monotonic()
    assert not is_being_cancelled(MINE)
    assert time.monotonic() - began < 30
    silent.set()


def test_a_server_that_refuses_says_nothing_of_who_asked(monkeypatch):
    def refuse() -> None:
        raise RuntimeError("500")

    monkeypatch.setattr(run_identity, "get_client", lambda **_: Server(refuse))
    assert not is_being_cancelled(MINE)


# --- what may fail ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "answer", "said"),
    [
        (lambda: forbid_retries(MINE), None, "may be retried"),
        (lambda: mark_crashed(MINE.flow_run_id, "gone"), None, "may still show flow run"),
        (lambda: newest_log_lines(MINE), [], "told again"),
        (lambda: running_for_s(MINE), 500.0, "as old as its process"),
    ],
)
def test_a_server_that_is_away_costs_a_line_in_the_log_and_no_training(
    monkeypatch, caplog, call, answer, said
):
    def away(**_: object) -> None:
        raise RuntimeError("no connection")

    monkeypatch.setattr(run_identity, "get_client", away)
    monkeypatch.setattr(run_identity, "get_run_logger", lambda: logging.getLogger("flow"))
    monkeypatch.setattr(run_identity, "_process_age_s", lambda: 500.0)
    assert call() == answer
    (line,) = caplog.messages
    assert said in line
    assert "no connection" in line


def test_a_flow_run_is_as_old_as_it_or_its_process_whatever_is_younger(monkeypatch):
    monkeypatch.setattr(run_identity, "_process_age_s", lambda: 500.0)
    monkeypatch.setattr(run_identity, "epoch_seconds", lambda: 10_000.0)
    for began, age_s in ((9_900.0, 100.0), (1_000.0, 500.0), (10_001.0, 0.0)):
        run = FlowRun(flow_id=uuid4(), start_time=datetime.fromtimestamp(began, UTC))
        monkeypatch.setattr(run_identity, "_read", lambda _, run=run: run)
        assert running_for_s(MINE) == age_s


# --- what was logged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("there", "read"), [(0, 0), (200, 200), (450, 450), (5000, LOG_LINES)])
def test_the_newest_log_lines_are_read_in_pages_up_to_a_bound(monkeypatch, there, read):
    lines = [
        SimpleNamespace(id=uuid4(), timestamp=datetime.fromtimestamp(n, UTC), message=f"line {n}")
        for n in reversed(range(there))
    ]

    class Client:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read_logs(self, _: object, *, offset: int, sort: object) -> list[Any]:
            assert sort == LogSort.TIMESTAMP_DESC
            return lines[
                max(0, offset - 1) : offset + 199
            ]  # a line was added since the page before

    monkeypatch.setattr(run_identity, "get_client", lambda **_: Client())
    found = newest_log_lines(RunIdentity(flow_run_id=str(uuid4()), name="n", run_count=2))
    assert [line.message for line in found] == [line.message for line in lines[:read]]
    assert all(a.at > b.at for a, b in itertools.pairwise(found))


# --- signs of life ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beat_s", "tags", "said"),
    [
        (180, ["pawl"], "a sign of life every 180 seconds"),
        (None, ["pawl", "mine"], "no sign of life"),
        (30, ["pawl"], None),
        (180, ["mine"], None),
    ],
)
def test_a_heart_that_the_automations_would_take_for_dead_is_told(monkeypatch, beat_s, tags, said):
    monkeypatch.setattr(run_identity, "flow_run", SimpleNamespace(tags=tags))
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: beat_s}):
        assert slow_heart() == said
