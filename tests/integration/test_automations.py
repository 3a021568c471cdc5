"""What nobody retries: a run whose worker and flow are both killed -9 comes back by Pawl's automations, up to the cap."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ray_workers.store.opening import StorageTarget
from tests.integration.conftest import PrefectServer
from tests.integration.harness import PAWL, PREFECT, SMALL, StoredRun, wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

PATIENCE_S = 420


@contextlib.contextmanager
def worker(server: PrefectServer, folder: Path) -> Iterator[psutil.Process]:
    """A process worker for the pool `pawl`; whatever is left of it and of its runs is killed at the end."""
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [PREFECT, "worker", "start", "--pool", "pawl"], cwd=folder, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **server.env, "PREFECT_WORKER_QUERY_SECONDS": "2"},
        )  # fmt: skip
    found = psutil.Process(process.pid)
    try:
        yield found
    finally:
        kill_all(found)
        process.wait(10)


def kill_all(process: psutil.Process) -> None:
    """`kill -9` of a process and everything below it, as when the machine goes."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGKILL)


class Deployed:
    """One flow run of the deployment that `pawl setup` made."""

    def __init__(self, server: PrefectServer, folder: Path, run: str) -> None:
        self.server, self.folder, self.run = server, folder, run
        self.stored = StoredRun(target=StorageTarget(str(folder / "store")), run=run)
        self.id = ""

    def setup(self, *options: str) -> None:
        subprocess.run(
            [PAWL, "setup", *options], cwd=self.folder, env={**os.environ, **self.server.env},
            check=True, stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip

    def start(self, *, step_delay: float = SMALL["step_delay"]) -> None:
        parameters = {
            "entrypoint": "ray_workers.loops.digits:train_loop",
            "run": self.run,
            "storage": str(self.folder / "store"),
            "config": {**SMALL, "step_delay": step_delay},
            "saving": {"every_steps": 5},
        }
        arguments = [f"--param={key}={json.dumps(value)}" for key, value in parameters.items()]
        self.server.cli("deployment", "run", "pawl-train/train", *arguments)
        deployment = self.ask("/deployments/filter", deployments={"name": {"any_": ["train"]}})[0]
        runs = self.ask(
            "/flow_runs/filter",
            deployments={"id": {"any_": [deployment["id"]]}},
            sort="START_TIME_DESC",
        )
        self.id = next(r["id"] for r in runs if r["parameters"].get("run") == self.run)

    def attempts(self) -> int:
        return len(self.stored.state.attempts) if self.stored.committed() else 0

    def ask(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.server.api_url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def flow_run(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.server.api_url}/flow_runs/{self.id}", timeout=60)
        found: dict[str, Any] = answer.json()
        return found

    def states(self) -> list[dict[str, Any]]:
        answer = httpx.get(
            f"{self.server.api_url}/flow_run_states/", params={"flow_run_id": self.id}, timeout=60
        )
        found: list[dict[str, Any]] = answer.json()
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def wait_for(self, state: str) -> None:
        wait_until(
            lambda: self.flow_run()["state_name"] == state,
            PATIENCE_S,
            f"{state}; worker log: {self.folder / 'worker.log'}",
        )


@pytest.fixture
def deployed(prefect_server: PrefectServer, tmp_path: Path, request: pytest.FixtureRequest):
    return Deployed(prefect_server, tmp_path, request.node.name.replace("_", "-")[:60])


def test_worker_and_flow_killed_the_same_run_goes_on_by_itself(
    deployed: Deployed, uninterrupted: list[str]
) -> None:
    deployed.setup("--lost-after", "90", "--backoff", "10", "--max-runs", "3")
    with worker(deployed.server, deployed.folder) as first:
        deployed.start(step_delay=1.0)
        deployed.stored.wait_for_versions(2)
        kill_all(first)
    assert deployed.flow_run()["state_name"] == "Running"  # and would stay so for ever
    with worker(deployed.server, deployed.folder):
        deployed.wait_for("Completed")
    told = [(state["name"], state["message"]) for state in deployed.states()]
    names = [name for name, _ in told]
    assert ("Crashed", "No heartbeat for 90 seconds.") in told
    assert names.index("Crashed") < names.index("AwaitingRetry") < names.index("Completed")
    assert deployed.flow_run()["run_count"] == 2
    attempts = [(a.flow_run_id, a.run_count) for a in deployed.stored.state.attempts.values()]
    assert attempts == [(deployed.id, 1), (deployed.id, 2)]
    assert deployed.stored.final_digests() == uninterrupted


def test_a_run_that_crashes_every_time_is_given_up_at_the_cap(deployed: Deployed) -> None:
    deployed.setup("--backoff", "10", "--max-runs", "2")
    with worker(deployed.server, deployed.folder) as alive:
        deployed.start(step_delay=3.0)
        for tries in (1, 2):
            wait_until(
                lambda tries=tries: (
                    deployed.attempts() == tries  # type: ignore[misc]
                    and deployed.flow_run()["state_name"] == "Running"
                ),
                PATIENCE_S,
                f"try {tries}",
            )
            for child in alive.children():
                kill_all(child)
            deployed.wait_for("Crashed")
        gave_up = wait_until(
            lambda: [e for e in told(deployed) if e["resource"]["prefect.resource.name"] == "pawl: gave up"],
            PATIENCE_S, "the event of giving up",
        )  # fmt: skip
    # Prefect's server works an event off at least once: a second time when its database was busy.
    assert len({e["related"][0]["prefect.resource.id"] for e in gave_up}) == 1
    assert deployed.flow_run()["state_name"] == "Crashed"
    assert deployed.flow_run()["run_count"] == 2


def told(deployed: Deployed) -> list[dict[str, Any]]:
    """Events of automations that acted because of this flow run."""
    found = deployed.ask(
        "/events/filter", filter={"event": {"name": ["prefect.automation.triggered"]}}, limit=50
    )
    return [e for e in found["events"] if deployed.id in json.dumps(e)]
