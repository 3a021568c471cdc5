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
from ray_workers.store.keys import shards_prefix
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import load_manifest
from tests.support.process_family import Family

PAWL = str(Path(sys.executable).with_name("pawl"))
PREFECT = str(Path(sys.executable).with_name("prefect"))
DIGITS = "ray_workers.loops.digits:train_loop"
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 64}
"""42 steps of two workers, as fast as they go. To be killed in the middle it needs a gate (`traced_loop`)."""
SMALL = {**QUICK, "step_delay": 0.15}
"""The same, slow enough to be looked at while it trains."""
PATIENCE_S = 400.0
"""Several trainings may start at once on two cores: a limit that only what hangs should meet."""
FAMILIES: list[Family] = []
"""Of all that was started; whatever a test leaves of them is killed when it ends (conftest)."""
_COMMANDS: dict[str, subprocess.Popen[bytes]] = {}
"""By the mark of the family that each began: one that nobody waits for turns the next test red, as a warning."""


def new_family() -> Family:
    FAMILIES.append(Family())
    return FAMILIES[-1]


def kill_families(first: int = 0) -> None:
    """Kill what is left of all that were started since there were `first` of them."""
    while len(FAMILIES) > first:
        family = FAMILIES.pop()
        family.kill()
        if (command := _COMMANDS.pop(family.mark, None)) is not None:
            command.wait(20)


def wait_until(true: Callable[[], Any], timeout_s: float = PATIENCE_S, what: str = "") -> Any:
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

    def steps(self) -> list[int]:
        """Steps of all versions, oldest first."""
        return [version.step for version in reversed(self.state.newest_first())]

    def stored_shards(self) -> int:
        """How many shards lie in the store, committed or not."""
        return sum(1 for _ in self.target.open().store.list(shards_prefix(self.run)))

    def wait_for_versions(self, count: int, timeout_s: float = PATIENCE_S) -> None:
        wait_until(lambda: self.committed() >= count, timeout_s, f"{count} versions of {self.run}")


@dataclass(slots=True, kw_only=True)
class PawlProcess:
    """One `pawl train`, its output in a file."""

    process: subprocess.Popen[bytes]
    log: Path
    family: Family
    command: list[str] = field(default_factory=list)

    def actors(self, kind: str) -> list[psutil.Process]:
        """Processes of this training whose title says that they are `kind`."""
        return actors_of(self.family, kind)

    def actor(self, kind: str) -> psutil.Process:
        """One process of `kind`, as soon as there is one."""
        found: list[psutil.Process] = wait_until(lambda: self.actors(kind), what=f"a {kind}")
        return found[0]

    def kill_actor(self, kind: str) -> None:
        """SIGKILL one process of `kind`."""
        self.actor(kind).kill()

    def kill_everything(self) -> None:
        """SIGKILL the flow and every process it brought about, as when the machine goes."""
        self.family.kill()
        self.process.wait(20)

    def ctrl_c(self) -> None:
        """What a terminal does: SIGINT to every process in front."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, timeout_s: float = 500.0) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            raise AssertionError(f"{self.command} did not end:\n{self.output[-6000:]}") from None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


def actors_of(family: Family, kind: str) -> list[psutil.Process]:
    """Processes whose title says that they are `kind`; Ray names its workers so."""
    return [p for p in family.members() if _title(p).startswith(f"ray::{kind}")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def start_pawl(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> PawlProcess:
    """Start `pawl ARGUMENTS` in `folder`, as the leader of a process group, as a terminal does."""
    count = len(list(folder.glob("pawl-*.log")))
    log = folder / f"pawl-{count}.log"
    command = [PAWL, *arguments]
    family = new_family()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {}), **family.environment}, start_new_session=True,
        )  # fmt: skip
    _COMMANDS[family.mark] = process
    return PawlProcess(process=process, log=log, family=family, command=command)


def train_arguments(
    run: str, *extra: str, entrypoint: str = DIGITS, config: Mapping[str, Any] | None = None
) -> list[str]:
    """The command line of a small training that saves every 5 steps."""
    settings = [
        f"--set={key}={json.dumps(value)}"
        for key, value in (QUICK if config is None else config).items()
    ]
    return ["train", entrypoint, "--run", run, "--every-steps", "5", *settings, *extra]
