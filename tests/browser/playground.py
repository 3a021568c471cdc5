"""What tests do behind the browser's back: ask the server, and do to a run what happens to runs."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from deployments.stack import LocalStack, Part
from ray_workers.store.opening import StorageTarget
from ray_workers.store.versions import load_manifest
from tests.integration.harness import StoredRun, wait_until
from tests.support.factories import flip_byte

__all__ = ["PATIENCE_S", "Playground"]

PATIENCE_S = 420


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

    def state(self, flow_run_id: str) -> str:
        return str(self.read(f"/flow_runs/{flow_run_id}")["state_name"])

    def wait_for(self, flow_run_id: str, *states: str) -> str:
        log = self.stack.folder / "worker.log"
        return str(
            wait_until(
                lambda: (now := self.state(flow_run_id)) in states and now,
                PATIENCE_S,
                f"{states} of flow run {flow_run_id}; worker's log: {log}",
            )
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
