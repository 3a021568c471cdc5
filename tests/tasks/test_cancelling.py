from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from flows.train import train
from ray_workers.adopting import job_name
from ray_workers.store.attempts import create_run, start_attempt, start_incarnation
from ray_workers.store.errors import ClusterUnavailableError
from ray_workers.store.opening import open_root
from tasks import cancelling, run_identity
from tasks.cancelling import stop_job_left_behind

ADDRESS = "http://head:8265"


class Server:
    """A job server at which every job has one status."""

    def __init__(self, status: str | None) -> None:
        self.state, self.asked, self.stopped = status, list[str](), list[str]()

    def __call__(self, address: str) -> Server:
        assert address == ADDRESS
        return self

    def status(self, name: str) -> str | None:
        self.asked.append(name)
        return self.state

    def stop(self, name: str) -> None:
        self.stopped.append(name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server("RUNNING")
    monkeypatch.setattr(cancelling, "RayJobs", made)
    return made


@pytest.fixture
def log(tmp_path):
    store = open_root(str(tmp_path / "store"), create=True).store
    return create_run(store, "run", by={"host": "h", "pid": 1})


def cancelled(tmp_path, *, run_count: int = 1, **more: Any) -> FlowRun:
    given = {"run": "run", "storage": str(tmp_path / "store"), "scaling": {"ray_address": ADDRESS}}
    return FlowRun(id=uuid4(), flow_id=uuid4(), run_count=run_count, parameters={**given, **more})


def hook(flow_run: FlowRun) -> None:
    stop_job_left_behind(train, flow_run, Cancelled())


def test_the_job_is_stopped_under_the_name_that_it_began_with(tmp_path, log, server) -> None:
    flow_run = cancelled(tmp_path)
    fence = start_attempt(log, flow_run_id=str(flow_run.id), run_count=1)
    start_incarnation(log, fence, 1)
    hook(flow_run)
    assert server.stopped == [job_name(str(log.state.run_id), fence)]


def test_what_a_schedule_left_empty_is_what_the_deployment_says(
    tmp_path, log, server, monkeypatch
) -> None:
    """The schedule dialog of Prefect's newer UI writes an empty value for each field that nobody touched."""
    deployed = cancelled(tmp_path).parameters

    class Client:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read_deployment(self, _: UUID) -> SimpleNamespace:
            return SimpleNamespace(parameters=deployed)

    monkeypatch.setattr(run_identity, "get_client", lambda **_: Client())
    empty: dict[str, Any] = {
        "run": None,
        "storage": None,
        "scaling": {"cluster": None, "ray_address": None},
    }
    flow_run = cancelled(tmp_path, **empty).model_copy(
        update={"auto_scheduled": True, "deployment_id": uuid4()}
    )
    fence = start_attempt(log, flow_run_id=str(flow_run.id), run_count=1)
    hook(flow_run)
    assert server.stopped == [job_name(str(log.state.run_id), fence)]


@pytest.mark.parametrize("status", ["STOPPED", "SUCCEEDED", "FAILED", None])
def test_a_job_that_is_not_at_work_is_left_alone(tmp_path, log, server, status) -> None:
    server.state = status
    flow_run = cancelled(tmp_path)
    start_attempt(log, flow_run_id=str(flow_run.id), run_count=1)
    hook(flow_run)
    assert server.asked
    assert server.stopped == []


@pytest.mark.parametrize("newer", [("another", 1), (None, 2)], ids=["flow run", "try"])
def test_a_newer_owners_job_is_left_alone(tmp_path, log, server, newer) -> None:
    flow_run = cancelled(tmp_path)
    start_attempt(log, flow_run_id=newer[0] or str(flow_run.id), run_count=newer[1])
    hook(flow_run)
    assert server.asked == []


def test_a_training_in_the_flows_own_process_has_no_job(tmp_path, log, server) -> None:
    flow_run = cancelled(tmp_path, scaling={})
    start_attempt(log, flow_run_id=str(flow_run.id), run_count=1)
    hook(flow_run)
    assert server.asked == []


def test_what_cannot_be_told_is_said_and_raises_nothing(tmp_path, log, monkeypatch, caplog) -> None:
    def silent(address: str) -> None:
        raise ClusterUnavailableError("No Ray job server answers", address=address)

    monkeypatch.setattr(cancelling, "RayJobs", silent)
    flow_run = cancelled(tmp_path)
    start_attempt(log, flow_run_id=str(flow_run.id), run_count=1)
    hook(flow_run)
    hook(cancelled(tmp_path, run="no-such-run"))
    assert caplog.text.count("Whether a Ray job is left") == 2


def test_the_training_flow_has_the_hook() -> None:
    assert stop_job_left_behind in train.on_cancellation_hooks
