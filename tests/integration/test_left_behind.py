"""What ends while Prefect's server is down: its automations forget it, and the next `pawl setup` brings it back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deployments.bringing_back import BROUGHT_BACK
from ray_workers.store.clock import utc_now
from tests.integration.harness import PAWL, PREFECT, wait_until

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

FORGETS_AFTER_S = 60
"""Prefect's server deletes, at its start, waits that ended longer ago (PREFECT_EVENTS_EXPIRED_BUCKET_BUFFER)."""
LOST_AFTER_S = 90


@dataclass(slots=True, kw_only=True)
class Mortal:
    """A Prefect server of the test's own, with its data in a folder: it can be down for a while."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                env={**os.environ, "PREFECT_HOME": str(self.home)}, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        wait_until(self._healthy, 180, f"a healthy server; {self.home / 'server.log'}")

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(15)
            self.process = None

    def post(self, path: str, body: Any) -> Any:
        answer = httpx.post(f"{self.api_url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def setup(self, folder: Path, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PAWL, "setup", *options], cwd=folder, text=True, stdin=subprocess.DEVNULL,
            env={**os.environ, "PREFECT_API_URL": self.api_url, "PREFECT_HOME": str(self.home)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def add(self, name: str, *states: str) -> str:
        """A flow run of the deployment `train` that came into these states."""
        (train,) = [d for d in self.post("/deployments/filter", {}) if d["name"] == "train"]
        made = self.post(
            f"/deployments/{train['id']}/create_flow_run",
            {"name": name, "state": {"type": "SCHEDULED"}},
        )
        for state in states:
            proposed = {"state": {"type": state}, "force": True}  # there is no worker to go by
            self.post(f"/flow_runs/{made['id']}/set_state", proposed)
        return str(made["id"])

    def beat(self, flow_run_id: str) -> None:
        event = {
            "id": str(uuid4()),
            "occurred": utc_now(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}"},
            "related": [
                {"prefect.resource.id": "prefect.tag.pawl", "prefect.resource.role": "tag"}
            ],
        }
        self.post("/events", [event])

    def history(self, flow_run_id: str) -> list[str]:
        answer = httpx.get(
            f"{self.api_url}/flow_run_states/", params={"flow_run_id": flow_run_id}, timeout=60
        )
        found = sorted(answer.raise_for_status().json(), key=lambda state: str(state["timestamp"]))
        return [state["name"] for state in found]

    def _healthy(self) -> bool:
        try:
            answer = httpx.get(f"{self.api_url}/health", timeout=2)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Mortal]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path / "prefect"
    home.mkdir()
    made = Mortal(home=home, port=port)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def test_runs_that_ended_while_the_server_was_down_come_back(server: Mortal, tmp_path: Path):
    finish(server.setup(tmp_path, "--lost-after", str(LOST_AFTER_S), "--backoff", "60"))
    silent = server.add("silent", "PENDING", "RUNNING")
    alive = server.add("alive", "PENDING", "RUNNING")
    crashed = server.add("crashed", "PENDING", "RUNNING", "CRASHED")
    by_hand = server.add("by-hand", "PENDING", "RUNNING", "CANCELLED")
    for each in (silent, alive):
        server.beat(each)
    time.sleep(5)  # so that its automations begin to count
    server.kill()
    time.sleep(LOST_AFTER_S + FORGETS_AFTER_S + 15)
    server.start()
    time.sleep(30)  # its automations look every five seconds
    assert server.history(silent)[-1] == "Running"
    assert server.history(crashed)[-1] == "Crashed"

    again = server.setup(tmp_path)
    deadline = time.monotonic() + 400
    while again.poll() is None and time.monotonic() < deadline:
        server.beat(alive)  # its flow lived on
        time.sleep(5)
    said = [line for line in finish(again).splitlines() if line.startswith(BROUGHT_BACK)]

    assert server.history(silent)[2:5] == ["Running", "Crashed", "AwaitingRetry"]
    assert server.history(crashed)[3:5] == ["Crashed", "AwaitingRetry"]
    assert server.history(alive)[-1] == "Running"
    assert server.history(by_hand)[-1] == "Cancelled"
    assert sorted(line.removeprefix(BROUGHT_BACK).split("'")[1] for line in said) == [
        "crashed",
        "silent",
    ]
    assert BROUGHT_BACK not in finish(server.setup(tmp_path))
