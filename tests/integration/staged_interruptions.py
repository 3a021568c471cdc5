"""A training that is asked to end while a save of it is held at one stage: started, asked, waited for, looked at."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from ray_workers.adopting import base_fence, job_name
from ray_workers.store.opening import StorageTarget
from tests.integration.conftest import PrefectServer
from tests.integration.harness import (
    PATIENCE_S,
    PawlProcess,
    StoredRun,
    actors_of,
    new_family,
    start_pawl,
    train_arguments,
    wait_until,
)
from tests.integration.held_saves import Hold, ShardGate, StoppedActors, UploadHeld
from tests.integration.test_ways_back import run_deployment
from tests.integration.traced_loop import ENTRYPOINT
from tests.integration.traced_training import Training
from tests.support.interruption_cells import Cell, Stage
from tests.support.process_family import Family
from tests.support.ray_head import RayHead
from tests.support.s3_server import S3Server
from tests.support.slowness import slowness

__all__ = ["ASKED", "BEFORE", "IN_FLIGHT", "StagedInterruption"]

EVERY = 2
BEFORE = [2, 4]
"""Steps of the versions that are committed when the save is held up."""
HELD = 5
"""Steps done when training stands at its first gate; the save of the next one is held up."""
IN_FLIGHT = 6
ASKED = 7
"""Steps done when it stands at its second gate, and the request comes: one more is interrupted."""
LIMIT_S = 120.0
"""From the start of the process: enough to reach the second gate, and not much to wait for there."""
LIMIT_AT_MOST = 4.0
"""So many times that on a slow machine: how slow it is at one moment says little of the next minutes."""
LIMITED_STEP_S = 3.0
"""A step takes so long under a time limit, of which the grace is two steps and some saves."""
DRAIN_S = 60
SHORT_S = 5.0
"""A grace that is to run out."""
_TOLD = re.compile(r"the workers end at their next step\. They save once more if [^.]* in (\d+) s")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByWorker:
    """A flow run that a Prefect worker runs."""

    flow_run_id: str
    family: Family
    log: Path
    begins: int
    """Of its own lines in the worker's log."""

    @property
    def output(self) -> str:
        return self.log.read_bytes()[self.begins :].decode(errors="replace")


class StagedInterruption(Training):
    """One cell.

    Args:
        project: where its folder is.
        server: of Prefect.
        cell: what is played.
        head: the cluster that others started, if it trains there.
    """

    def __init__(
        self, project: Path, server: PrefectServer, cell: Cell, head: RayHead | None
    ) -> None:
        super().__init__(project, server)
        self.cell, self.head = cell, head
        self.busy = slowness()
        self.held_s = 0.0
        """So long the save in flight was held, if it went on."""
        self._held_at = 0.0
        self._gates = self.gates(HELD + 1, ASKED + 1, settle=HELD + 1)
        self._shard_gate: ShardGate | None = None
        self._started: PawlProcess | _ByWorker | None = None
        if head is not None:
            self.environment["RAY_AUTH_MODE"] = "disabled"

    def store_behind(self, server: S3Server, wire: str, gate: ShardGate) -> None:
        """Keep the run on an S3 server that the training reaches at the address `wire`, through `gate`."""
        target = StorageTarget(f"s3://{server.new_bucket()}/pawl", server.credentials())
        self.stored = StoredRun(target=target, run=self.stored.run)
        self.environment |= {**server.environment(), "AWS_ENDPOINT_URL": wire}
        self._shard_gate = gate

    def start_by_command(self) -> None:
        """`pawl train`, as a user at a terminal."""
        address = () if self.head is None else ("--ray-address", self.head.address)
        if self.cell.asked.key == "time_limit":
            self.step_delay = LIMITED_STEP_S
            end = ("--time-limit", str(LIMIT_S * min(self.busy, LIMIT_AT_MOST)))
        else:
            end = ("--grace", str(self._grace_s()))
        self._started = self._command(*address, *end)

    def start_by_worker(self, log: Path) -> None:
        """As a deployment's flow run, of the worker that writes `log`."""
        family, begins = new_family(), log.stat().st_size
        direct = self.cell.asked.key == "cancel"
        scaling = {}
        if self.head is not None:
            scaling["ray_address"] = self.head.address if direct else self.head.jobs_address
        saving = {"every_steps": EVERY, "every_epochs": 1000, "interval": "fixed"}
        flow_run_id = run_deployment(self, self._gates, family, saving=saving, scaling=scaling)
        self._started = _ByWorker(
            flow_run_id=flow_run_id, family=family, log=log, begins=begins
        )  # fmt: skip

    def train_until_asked(self) -> Hold:
        """Return when the save in flight stands at its stage and training at its second gate."""
        self._gates.reach(HELD + 1)
        assert self.stored.steps() == BEFORE
        hold = self._hold()
        hold.begin()
        self._gates.open(HELD + 1)
        self._gates.reach(ASKED + 1)
        hold.reached()
        self._held_at = time.monotonic()
        assert self.stored.steps() == BEFORE
        assert not _TOLD.search(self.said()), "the request came before training was ready for it"
        return hold

    def ask(self) -> float:
        """The request; when it came."""
        asks: dict[str, Callable[[], object]] = {
            "ctrl_c": self._ctrl_c,
            "sigterm": self._sigterm,
            "cancel": self._cancel,
            "job": self._cancel,
            "time_limit": self.grace_s,
            "draining": self._drain,
        }
        key, before = self.cell.asked.key, time.monotonic()
        asks[key]()
        # The time limit comes by itself, and what announces a drain is a program that must start first.
        return time.monotonic() if key in ("time_limit", "draining") else before

    def go_on(self, hold: Hold) -> None:
        """When the request was heard, what held the save up goes on, if it ever does, and so does training."""
        staged = self.cell.stage is Stage.STAGED
        if staged:
            self.grace_s()  # the flow has heard it; agents that stand still tell no rank
        else:
            self._gates.asked_to_end(ASKED + 1)
        if self.cell.goes_on:
            hold.end()
            self.held_s = time.monotonic() - self._held_at
        if self.cell.goes_on or not staged:
            self._gates.asked_to_end(ASKED + 1)
            self._gates.open(ASKED + 1)

    def wait_for_the_end(self) -> float:
        """Return when it is over, with the time, having seen that it ended as promised."""
        asked = self.cell.asked
        if isinstance(self._started, _ByWorker):
            return self._wait_until_cancelled(self._started)
        if asked.exit_code is None:
            wait_until(lambda: asked.state in self._states(), what=asked.state)
            ended = time.monotonic()
            self._process.kill_everything()  # before its next try, for which there is no node
            return ended
        code, ended = self._process.wait(), time.monotonic()
        assert code == asked.exit_code, (code, self.said())
        assert self.flow_run().state_name == asked.state, self.said()
        assert self.flow_run().run_count == 1
        return ended

    def wait_until_nobody_writes(self) -> None:
        """Return when no process of this training is left that could."""
        kinds = ("CheckpointActor", "NodeAgent", "RayTrainWorker")
        wait_until(lambda: not any(self._actors(kind) for kind in kinds), what="the actors' end")

    def grace_s(self) -> float:
        """Seconds for the last save, as soon as the flow has told them, or the job that it follows."""
        patience_s = PATIENCE_S + LIMIT_S * LIMIT_AT_MOST  # a time limit must come first
        told = wait_until(lambda: _TOLD.search(self.said()), patience_s, what="the request")
        return float(told[1])

    def resume(self) -> PawlProcess:
        """The run goes on to its end, on this machine and as fast as it can."""
        self.step_delay = 0.0
        return self._command()

    def said(self) -> str:
        """What the flow told; behind it what the job did that it follows."""
        assert self._started is not None
        return self._started.output + self._job_said()

    @property
    def _process(self) -> PawlProcess:
        assert isinstance(self._started, PawlProcess)
        return self._started

    def _wait_until_cancelled(self, started: _ByWorker) -> float:
        """When nothing was left that it had started. The state comes later: Prefect runs the flow's hook before it tells it."""
        wait_until(lambda: not started.family.members(), what="the end of the flow's processes")
        ended = time.monotonic()
        wait_until(lambda: self.cell.asked.state in self._states(), what=self.cell.asked.state)
        return ended

    def _command(self, *extra: str) -> PawlProcess:
        fixed = ("--every-steps", str(EVERY), "--every-epochs", "1000", "--interval", "fixed")
        arguments = train_arguments(
            self.stored.run, "--storage", self.stored.target.url, "--retries", "3", *fixed, *extra,
            entrypoint=ENTRYPOINT, config=self.config(self._gates),
        )  # fmt: skip
        return start_pawl(self.project, *arguments, env=self.environment)

    def _grace_s(self) -> float:
        """What this machine needs for the usual grace; or a short one, where nothing comes of it."""
        usual = {"ctrl_c": 6.0}.get(self.cell.asked.key, 18.0)
        return usual * self.busy if self.cell.goes_on else min(usual, SHORT_S)

    def _hold(self) -> Hold:
        stage = self.cell.stage
        if stage is Stage.UPLOADING:
            assert self._shard_gate is not None
            return UploadHeld(self._shard_gate, self.stored)
        kind, shards = ("NodeAgent", 0) if stage is Stage.STAGED else ("CheckpointActor", 2)
        return StoppedActors(lambda: self._actors(kind), self.stored, shards=shards)

    def _actors(self, kind: str) -> list[psutil.Process]:
        if self.head is not None:
            return self.head.actors(kind)
        assert self._started is not None
        return actors_of(self._started.family, kind)

    def _ctrl_c(self) -> None:
        self._process.ctrl_c()

    def _sigterm(self) -> None:
        self._process.process.send_signal(signal.SIGTERM)

    def _cancel(self) -> None:
        """As the button in Prefect's UI."""
        with self._client() as client:
            client.set_flow_run_state(UUID(self._flow_run_id), Cancelling())

    def _drain(self) -> None:
        assert self.head is not None
        self.head.drain(deadline_s=DRAIN_S)

    @property
    def _flow_run_id(self) -> str:
        if isinstance(self._started, _ByWorker):
            return self._started.flow_run_id
        return next(iter(self.stored.state.attempts.values())).flow_run_id

    def _states(self) -> list[str | None]:
        """Of the flow run, all that it has had."""
        with self._client() as client:
            return [state.name for state in client.read_flow_run_states(UUID(self._flow_run_id))]

    @contextmanager
    def _client(self) -> Iterator[SyncPrefectClient]:
        with (
            temporary_settings({PREFECT_API_URL: self.server.api_url}),
            get_client(sync_client=True) as client,
        ):
            yield client

    def _job_said(self) -> str:
        if self.head is None or self.cell.asked.key != "job":
            return ""
        state = self.stored.state
        job = job_name(str(state.run_id), base_fence(state, max(state.attempts)))
        logs = (self.head.folder / "ray" / "session_latest" / "logs").glob(f"job-driver-{job}*.log")
        return "".join(log.read_text(errors="replace") for log in logs)
