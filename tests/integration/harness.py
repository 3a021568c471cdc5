"""Real processes for the ways back: `pawl train` as a user runs it, its process tree, and what it left in the store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ray_workers.store.attempts import read_run
from ray_workers.store.errors import MissingError
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import load_manifest

PAWL = str(Path(sys.executable).with_name("pawl"))
PREFECT = str(Path(sys.executable).with_name("prefect"))
DIGITS = "ray_workers.loops.digits:train_loop"
SMALL = {"epochs": 3, "batch_size": 64, "step_delay": 0.15}
"""42 steps of two workers; slow enough to be killed in the middle."""


def wait_until(true: Callable[[], Any], timeout_s: float = 300.0, what: str = "") -> Any:
    """Poll until `true()` is, and return it; fail with `what` after the time limit."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := true():
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what or true}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as a fresh process finds it."""

    target: StorageTarget
    run: str

    @property
    def state(self) -> RunState:
        return read_run(self.target.open().store, self.run)

    def committed(self) -> int:
        """How many versions there are; 0 before the run exists."""
        try:
            return len(self.state.versions)
        except MissingError:
            return 0

    def final_digests(self) -> list[str]:
        """Shard digests of the newest version: equal state gives equal digests."""
        store = self.target.open().store
        manifest = load_manifest(store, self.run, self.state.newest_first()[0])
        assert manifest.progress.finished
        return [shard.digest for shard in manifest.shards]

    def wait_for_versions(self, count: int, timeout_s: float = 120.0) -> None:
        wait_until(lambda: self.committed() >= count, timeout_s, f"{count} versions of {self.run}")


@dataclass(slots=True, kw_only=True)
class PawlProcess:
    """One `pawl train`, its output in a file."""

    process: subprocess.Popen[bytes]
    log: Path
    command: list[str] = field(default_factory=list)

    def actors(self, kind: str) -> list[psutil.Process]:
        """Processes of this training whose title says that they are `kind` (Ray names its workers so)."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in tree if _title(p).startswith(f"ray::{kind}")]

    def kill_actor(self, kind: str) -> int:
        """SIGKILL one process of `kind`; its pid."""
        found = wait_until(lambda: self.actors(kind), what=f"a {kind} process")
        found[0].send_signal(signal.SIGKILL)
        return int(found[0].pid)

    def kill_everything(self) -> None:
        """SIGKILL the flow and every process it started, as when the machine goes."""
        tree = [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]
        for process in tree:
            process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def wait(self, timeout_s: float = 500.0) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            raise AssertionError(f"{self.command} did not end:\n{self.output[-6000:]}") from None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def start_pawl(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> PawlProcess:
    """Start `pawl ARGUMENTS` in `folder`."""
    count = len(list(folder.glob("pawl-*.log")))
    log = folder / f"pawl-{count}.log"
    command = [PAWL, *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )  # fmt: skip
    return PawlProcess(process=process, log=log, command=command)


def train_arguments(
    run: str, *extra: str, entrypoint: str = DIGITS, config: Mapping[str, Any] | None = None
) -> list[str]:
    """The command line of a small training that saves every 5 steps."""
    settings = [f"--set={key}={json.dumps(value)}" for key, value in (config or SMALL).items()]
    return ["train", entrypoint, "--run", run, "--every-steps", "5", *settings, *extra]
