"""Measuring a way back: a loop that writes down when it did each step, and a Prefect server of one's own to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.automations import ComeBack, automations
from tests.integration.harness import (
    PREFECT,
    PawlProcess,
    StoredRun,
    start_pawl,
    train_arguments,
    wait_until,
)
from tests.support.ray_head import clean_environment, free_ports
from tests.support.ways_back_table import Row, add

ROWS = Path(os.environ.get("PAWL_WAYS_BACK", "build/ways-back.jsonl"))
LONG_S = 900
POOL = "pawl-measured"
STEPS, STEPS_OF_SMALL = 56, 42
LOOP = '''
"""Digits that writes down who did which step when, and raises once if asked to."""
import os
import time
from pathlib import Path

from ray_workers.loops import digits

_step = digits.step


def train_loop(config):
    config = dict(config)
    trace = Path(config.pop("trace"))
    raise_at = config.pop("raise_at", 0)
    rank, done = os.environ.get("RANK", "0"), 0

    def step(*parts):
        nonlocal done
        done += 1
        marker = trace.with_suffix(".raised")
        if done == raise_at and rank == "0" and not marker.exists():
            marker.write_text(str(time.time()))
            raise RuntimeError("planted failure")
        with trace.open("a") as out:
            out.write(f"{rank} {os.getpid()} {time.time()}\\n")
        return _step(*parts)

    digits.step = step
    digits.train_loop(config)
'''


@dataclass(slots=True)
class Server:
    """A Prefect server and a process worker, each killable, with Pawl's automations."""

    folder: Path
    port: int = 0
    server: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def env(self) -> dict[str, str]:
        return {"PREFECT_API_URL": self.api_url, "PREFECT_HOME": str(self.folder)}

    def start(self) -> None:
        self.port = self.port or free_ports(1)[0]
        command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.server = self._spawn("server.log", command, {"PREFECT_HOME": str(self.folder)})
        wait_until(self._healthy, LONG_S, "a healthy Prefect server")

    def start_worker(self) -> None:
        """The one worker: an earlier one is ended first, or it might take the run of which this one is to die."""
        for earlier in self.workers:
            if earlier.poll() is None:
                kill_tree(earlier.pid)
                earlier.wait(20)
        env = {
            **self.env,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        }
        command = [PREFECT, "worker", "start", "--pool", POOL, "--type", "process"]
        self.workers.append(self._spawn(f"worker-{len(self.workers)}.log", command, env))

    def add_automations(self) -> None:
        rules = ComeBack(lost_after_seconds=90, backoff_seconds=(10,))
        with self.client(), get_client(sync_client=True) as client:
            for one in automations(rules):
                client.create_automation(one)

    def client(self) -> Any:
        return temporary_settings({PREFECT_API_URL: self.api_url})

    def kill(self) -> None:
        for process in [self.server, *self.workers]:
            if process is not None and process.poll() is None:
                kill_tree(process.pid)
                process.wait(20)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.api_url}/health", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _spawn(
        self, log: str, command: list[str], env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                command, env=clean_environment(env), stdin=subprocess.DEVNULL, stdout=out,
                stderr=out, start_new_session=True,
            )  # fmt: skip


@dataclass(slots=True)
class Measured:
    """One run of the traced loop, and what its trace says of a failure."""

    folder: Path
    server: Server
    stored: StoredRun
    env: Mapping[str, str] = field(default_factory=dict)
    started: list[PawlProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "traced.py").write_text(LOOP)

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    def config(self, **more: Any) -> dict[str, Any]:
        return {
            "epochs": 4, "batch_size": 64, "step_delay": 0.5, "trace": str(self.trace), **more,
        }  # fmt: skip

    def start(self, *extra: str, retries: int = 0, **config: Any) -> PawlProcess:
        arguments = train_arguments(
            self.stored.run, "--storage", self.stored.target.url, "--retries", str(retries), *extra,
            entrypoint="traced:train_loop", config=self.config(**config),
        )  # fmt: skip
        env = {**self.server.env, "RAY_AUTH_MODE": "disabled", **self.env}
        process = start_pawl(self.folder, *arguments, env=env)
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            if process.process.poll() is None:
                process.kill_everything()

    def wait_for_versions(self, count: int) -> None:
        self.stored.wait_for_versions(count, LONG_S)

    def fail(self, act: Callable[[], object]) -> float:
        """Do it, and say when."""
        at = time.time()  # noqa: TID251 - compared with what other processes wrote down
        act()
        return at

    def steps(self) -> list[tuple[int, float]]:
        """(process, time) of each step of rank 0, in order of happening."""
        lines = [line.split() for line in self.trace.read_text().splitlines()]
        return sorted(((int(p), float(t)) for r, p, t in lines if r == "0"), key=lambda one: one[1])

    def record(self, order: int, failure: str, back: str, at: float, last: int = STEPS) -> Row:
        """What it cost, once the run is finished with its step `last`."""
        newest = self.stored.state.newest_first()[0]
        assert newest.step == last, f"the run ended at step {newest.step}"
        steps = self.steps()
        row = Row(
            order=order, failure=failure, back=back, steps=len(steps) - newest.step,
            seconds=standstill(steps, at),
        )  # fmt: skip
        add(ROWS, row)
        return row


def standstill(steps: list[tuple[int, float]], at: float) -> float | None:
    """Seconds from the failure to the next process's first step; within one process, the longest pause if it is one."""
    before = [pid for pid, t in steps if t <= at]
    after = [t for pid, t in steps if t > at and pid != before[-1]]
    if after:
        return after[0] - at
    gaps = sorted(late - early for (_, early), (_, late) in pairwise(steps))
    pause = max((late - early for (_, early), (_, late) in pairwise(steps) if late > at), default=0)
    return pause if pause > 5 * gaps[len(gaps) // 2] else None


def kill_tree(pid: int) -> None:
    """`kill -9` of a process and all that it started."""
    root = psutil.Process(pid)
    for member in [root, *root.children(recursive=True)]:
        member.send_signal(signal.SIGKILL)
