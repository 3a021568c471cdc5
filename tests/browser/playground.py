"""What tests do behind the browser's back: ask the server, and do to a run what happens to runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from deployments.stack import LocalStack, Part
from ray_workers.store.opening import StorageTarget
from ray_workers.store.versions import load_manifest
from tests.integration.harness import PAWL, StoredRun, wait_until
from tests.support.factories import flip_byte

__all__ = ["PATIENCE_S", "Playground"]

PATIENCE_S = 420
_KILLED = "Check whether the flow run exceeded its memory"
"""What Prefect's worker writes into a run's logs after it has reported that its process was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Playground:
    """A stack, its server's API, and its store."""

    stack: LocalStack

    @property
    def store(self) -> Path:
        return self.stack.folder / "store"

    def stored(self, run: str) -> StoredRun:
        return StoredRun(target=StorageTarget(str(self.store)), run=run)

    def ask(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.stack.api_url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def read(self, path: str) -> Any:
        answer = httpx.get(f"{self.stack.api_url}{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def deployment(self, name: str) -> Any:
        return self.ask("/deployments/filter", deployments={"name": {"any_": [name]}})[0]

    def start(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """A run of a deployment with its other parameters as deployed; the flow run's id."""
        found = self.deployment(deployment)
        run = self.ask(
            f"/deployments/{found['id']}/create_flow_run",
            parameters={**found["parameters"], **parameters},
            state={"type": "SCHEDULED"},
        )
        return str(run["id"])

    def flow_run(self, flow_run_id: str) -> Any:
        return self.read(f"/flow_runs/{flow_run_id}")

    def state(self, flow_run_id: str) -> str:
        return str(self.flow_run(flow_run_id)["state_name"])

    def states(self, flow_run_id: str) -> list[Any]:
        """All states of a flow run, oldest first."""
        found = self.read(f"/flow_run_states/?flow_run_id={flow_run_id}")
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def wait_for(self, flow_run_id: str, *states: str) -> str:
        log = self.stack.folder / "worker.log"
        return str(
            wait_until(
                lambda: (now := self.state(flow_run_id)) in states and now,
                PATIENCE_S,
                f"{states} of flow run {flow_run_id}; worker's log: {log}",
            )
        )

    def set_up(self, *options: str) -> None:
        """`pawl setup OPTIONS` against the server."""
        subprocess.run(
            [PAWL, "setup", *options], cwd=self.stack.project, check=True, stdin=subprocess.DEVNULL, timeout=300,
            env={**os.environ, "PREFECT_API_URL": self.stack.api_url},
        )  # fmt: skip

    def flow_run_named(self, name: str) -> Any:
        """The flow run of that name, as soon as there is one."""
        return wait_until(
            lambda: self.ask("/flow_runs/filter", flow_runs={"name": {"any_": [name]}}),
            PATIENCE_S,
            f"a flow run {name}",
        )[0]

    def artifact_of(self, flow_run_id: str, key: str) -> str:
        """The id of a flow run's artifact, when the run has completed."""
        self.wait_for(flow_run_id, "Completed")
        found = self.ask(
            "/artifacts/filter",
            artifacts={"key": {"any_": [key]}, "flow_run_id": {"any_": [flow_run_id]}},
        )
        return str(found[0]["id"])

    def wait_for_worker(self, flow_run_id: str, kills: int) -> None:
        """Until Prefect's worker has noticed so many kills of a flow run.

        The runner inside it calls the run Crashed at once. Later, on a crowded machine much later, the worker does so a
        second time, without a look at whether that was another try.
        """
        wait_until(
            lambda: self._noticed(flow_run_id) >= kills, PATIENCE_S, f"kill {kills} to be noticed"
        )

    def _noticed(self, flow_run_id: str) -> int:
        logs = self.ask("/logs/filter", logs={"flow_run_id": {"any_": [flow_run_id]}}, limit=200, sort="TIMESTAMP_DESC")  # fmt: skip
        return sum(
            log["name"] == "prefect.flow_runs.worker" and _KILLED in log["message"] for log in logs
        )

    def kill_flows(self) -> None:
        """`kill -9` of every flow's process and all below it; the worker lives."""
        worker = Part(folder=self.stack.folder, name="worker").running()
        assert worker is not None
        for member in [
            m for flow in worker.children() for m in (flow, *flow.children(recursive=True))
        ]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGKILL)

    def damage_newest(self, run: str) -> int:
        """Flip one byte in a shard of the newest version; its number."""
        state = self.stored(run).state
        newest = state.newest_first()[0]
        manifest = load_manifest(self.stored(run).target.open().store, run, newest)
        flip_byte(self.store, manifest.shards[0].key)
        return int(newest.number)
