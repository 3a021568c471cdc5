"""Prefect's history as evidence of failures, read from a real server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Completed, Crashed, Failed, Running

from ray_workers.config import Saving
from ray_workers.opening_attempt import Applicant, open_attempt
from ray_workers.resume import ResumeSpec
from ray_workers.store.attempts import this_process
from ray_workers.store.opening import StorageTarget
from tasks import failure_history
from tasks.attempt import Attempt
from tasks.failure_history import failures_elsewhere
from tests.integration.conftest import PrefectServer

pytestmark = pytest.mark.prefect
RAISED = "Flow run encountered an exception: TrainingFailedError: Training of run 'r' failed on rank 0: {}"


@flow(name="pawl-failure-history")
def made_up(run: str, scaling: dict[str, int]) -> None: ...


def lived(client: SyncPrefectClient, *states: Any, run: str = "run") -> FlowRun:
    """A flow run that went through these states."""
    made = client.create_flow_run(made_up, parameters={"run": run, "scaling": {"workers": 2}})
    for state in states:
        client.set_flow_run_state(made.id, state, force=True)
    return client.read_flow_run(made.id)


def attempt_of(target: StorageTarget, run: FlowRun) -> Attempt:
    identity = SimpleNamespace(flow_run_id=str(run.id), name=run.name, run_count=run.run_count)
    request = SimpleNamespace(target=target, run="run", saving=Saving(), identity=identity)
    return cast("Attempt", SimpleNamespace(request=request))


def test_flow_runs_of_this_run_name_count_and_none_counts_twice(
    tmp_path: Path, prefect_server: PrefectServer
) -> None:
    target = StorageTarget(str(tmp_path / "store"))
    with (
        temporary_settings({PREFECT_API_URL: prefect_server.api_url}),
        get_client(sync_client=True) as client,
    ):
        logged = lived(client, Running(), Crashed(message="Process exited with status code: -9"))
        lived(client, Running(), Crashed(message="Process exited with status code: -9"))
        lived(
            client,
            Running(),
            AwaitingRetry(message=RAISED.format("ActorDiedError: gone")),
            Running(),
            Failed(message=RAISED.format("ValueError: mine")),
        )
        lived(client, Running(), Completed())
        lived(client, Running(), Crashed(message="on another machine"), run="other")
        own = lived(client, Running())
        applicant = Applicant(
            flow_run_id=str(logged.id), run_count=1, by=this_process(), takeover=True,
            still_running=lambda _: None,
        )  # fmt: skip
        open_attempt(target.open(create=True).store, "run", ResumeSpec.parse("auto"), applicant)
        found = failures_elsewhere(attempt_of(target, own))
    assert [item.failures for item in found] == [1, 1, 0, 0]


def test_a_server_that_is_away_costs_the_history_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(failure_history, "get_client", away)
    run = SimpleNamespace(id="f", name="f", run_count=1)
    assert failures_elsewhere(attempt_of(StorageTarget(str(tmp_path)), cast("FlowRun", run))) == ()
