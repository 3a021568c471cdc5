"""A try that begins: a cluster that is away is waited for; of a job that trains already only what is new is told."""

from __future__ import annotations

import logging
import socket
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from ray_workers.config import Scaling
from ray_workers.messages import PawlEvent
from ray_workers.store.errors import ClusterUnavailableError, InvalidInputError, PawlError
from ray_workers.store.memory import MemoryStore
from tasks import cluster_job
from tasks.cluster_job import _unheard, job_goes_on, wait_for_cluster
from tasks.run_identity import LOG_LINES, LogLine
from tests.support.factories import MadeUpRun

JOBS = Scaling(ray_address="http://head:8265")


class Clock:
    """Time that passes with each pause alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Away:
    """A job server that answers after some time."""

    def __init__(self, clock: Clock, until: float) -> None:
        self.clock, self.until, self.asked = clock, until, 0

    def __call__(self, address: str) -> None:
        self.asked += 1
        if self.clock.now < self.until:
            raise ClusterUnavailableError("No Ray job server answers.", address=address)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cluster_job, "time", made)
    monkeypatch.setattr(cluster_job, "get_run_logger", lambda: logging.getLogger("flow"))
    return made


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    MadeUpRun(store=store, name="run", ranks=1).start()
    return store


def away(monkeypatch: pytest.MonkeyPatch, clock: Clock, until: float) -> Away:
    server = Away(clock, until)
    monkeypatch.setattr(cluster_job, "RayJobs", server)
    return server


def test_a_cluster_that_is_away_is_waited_for_and_that_is_said(
    store, clock, monkeypatch, caplog
) -> None:
    away(monkeypatch, clock, until=240)
    wait_for_cluster(JOBS, store, "run")
    assert 240 <= clock.now < 250
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "No Ray job server answers. Run run waits for it, 600 s more"
    assert len(said) == 4  # once a minute


def test_it_is_not_waited_for_without_end(store, clock, monkeypatch) -> None:
    away(monkeypatch, clock, until=float("inf"))
    with pytest.raises(ClusterUnavailableError):
        wait_for_cluster(JOBS, store, "run")
    assert clock.now == 600


def test_for_a_run_that_has_nothing_yet_nobody_waits(clock, monkeypatch) -> None:
    server = away(monkeypatch, clock, until=float("inf"))
    store = MemoryStore()
    wait_for_cluster(JOBS, store, "run")
    made = MadeUpRun(store=store, name="run", ranks=1)
    made.start()
    made.end("failed", "no cluster")  # a wrong address; its next try would fail the same way
    wait_for_cluster(JOBS, store, "run")
    assert server.asked == 0


def test_a_cluster_of_ones_own_is_not_waited_for(store, clock) -> None:
    wait_for_cluster(Scaling(), store, "run")
    wait_for_cluster(Scaling(ray_address="auto"), store, "run")
    assert clock.now == 0


def test_the_head_of_a_joined_cluster_is_there_when_somebody_listens(store, clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        joined = Scaling(ray_address=f"127.0.0.1:{head.getsockname()[1]}")
        wait_for_cluster(joined, store, "run")
    with pytest.raises(ClusterUnavailableError, match="No Ray cluster answers at"):
        wait_for_cluster(joined, store, "run")
    assert clock.now == 600


# --- whether the job goes on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [("PENDING", True), ("RUNNING", True), ("SUCCEEDED", False), ("STOPPED", False), (None, False)],
)
def test_a_job_goes_on_while_its_cluster_says_so(monkeypatch, status, goes_on) -> None:
    monkeypatch.setattr(cluster_job, "RayJobs", lambda _: SimpleNamespace(status=lambda _: status))
    assert job_goes_on("http://head:8265", "0" * 32, 2) == goes_on


@pytest.mark.parametrize(
    "error", [ClusterUnavailableError("away"), InvalidInputError("asks for a token")]
)
def test_a_job_of_which_nobody_can_tell_may_go_on(monkeypatch, error: PawlError) -> None:
    def refuse(_: str) -> None:
        raise error

    monkeypatch.setattr(cluster_job, "RayJobs", refuse)
    assert job_goes_on("http://head:8265", "0" * 32, 2)


# --- what an earlier try has told ------------------------------------------------------------------------------------


def event(second: int, message: str = "") -> PawlEvent:
    at = datetime.fromtimestamp(second, UTC).isoformat(timespec="milliseconds")
    return PawlEvent(kind="committed", message=message or f"Version {second}", at=at)


def logged(*events: PawlEvent, late_s: float = 0.5) -> list[LogLine]:
    """The lines of a flow that told these events, newest first."""
    lines = [
        LogLine(at=datetime.fromisoformat(e.at).timestamp() + late_s, message=e.message)
        for e in events
    ]
    return lines[::-1]


def told_now(events: list[PawlEvent], lines: list[LogLine]) -> list[PawlEvent]:
    told: list[PawlEvent] = []
    tell = _unheard(told.append, lines)
    for each in events:
        tell(each)
    return told


def test_what_happened_while_no_flow_followed_is_told_by_the_next_try() -> None:
    events = [event(second) for second in range(100, 110)]
    this_try = [
        LogLine(at=200.0, message="Ray job trains already"),
        LogLine(at=199.0, message="Beginning flow run"),
        LogLine(at=190.0, message="Worker 'w' submitting flow run"),
    ]
    assert told_now(events, this_try + logged(*events[:4])) == events[4:]


def test_of_two_in_the_same_words_the_second_is_told() -> None:
    events = [event(100, "[rank 0] epoch"), event(110, "[rank 0] epoch")]
    assert told_now(events, logged(events[0])) == events[1:]
    before = event(10, "[rank 0] epoch")  # of the job of an earlier attempt
    assert told_now(events, logged(before)) == events


def test_of_a_long_log_what_is_older_than_the_lines_that_were_read_is_not_told_again() -> None:
    events = [event(second) for second in range(100, 100 + LOG_LINES + 50)]
    lines = logged(*events[:-5])[:LOG_LINES]
    assert told_now(events, lines) == events[-5:]


def test_of_a_job_that_another_flow_run_followed_all_is_told() -> None:
    events = [event(second) for second in range(100, 103)]
    assert told_now(events, []) == events
