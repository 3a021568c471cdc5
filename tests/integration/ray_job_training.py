"""A training on a Ray cluster of its own, started by `pawl train` with the cluster's job server as address."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_workers.adopting import base_fence, job_name
from ray_workers.ray_jobs import RayJobs
from ray_workers.store.keys import log_prefix
from tests.integration.harness import (
    DIGITS,
    SMALL,
    PawlProcess,
    StoredRun,
    start_pawl,
    train_arguments,
    wait_until,
)
from tests.support.ray_head import RayHead

GATED = '''
"""The digits loop as a user's own module: no step before the test allows it, so that nothing depends on who is faster."""
import time
from pathlib import Path

from ray_workers.loops import digits

_step = digits.step


def train_loop(config):
    config = dict(config)
    gate = Path(config.pop("gate"))
    done = 0

    def step(*parts):
        nonlocal done
        while done >= int(gate.read_text()):
            time.sleep(0.05)
        done += 1
        return _step(*parts)

    digits.step = step
    digits.train_loop(config)
'''
SOME, MORE, ALL = 20, 32, 1_000_000
"""Steps that a process may do of the 42: enough for two versions, for at least one more, and for the whole run."""


@dataclass(slots=True, kw_only=True)
class JobTraining:
    """One run, the cluster it trains on, and the environment of its flow."""

    folder: Path
    head: RayHead
    stored: StoredRun
    env: Mapping[str, str] = field(default_factory=dict)
    started: list[PawlProcess] = field(default_factory=list)

    def start_gated(self, **config: Any) -> PawlProcess:
        """A run that stops before the step that `allow` did not allow.

        Its steps are slow enough that the ranks agree on saving at every one: versions come as often as they are asked for.
        """
        (self.folder / "gated.py").write_text(GATED)
        gated = {**SMALL, "step_delay": 0.6, "gate": str(self._gate), **config}
        return self.start(config=gated, entrypoint="gated:train_loop")

    def allow(self, steps: int) -> None:
        """So many steps in each process of the loop, from now on."""
        write_gate(self._gate, steps)

    @property
    def _gate(self) -> Path:
        return self.folder / "gate"

    def start(
        self, *extra: str, config: Mapping[str, Any] = SMALL, entrypoint: str = DIGITS
    ) -> PawlProcess:
        arguments = train_arguments(
            self.stored.run, "--storage", self.stored.target.url, "--retries", "0",
            "--ray-address", self.head.jobs_address, *extra, config=config, entrypoint=entrypoint,
        )  # fmt: skip
        process = start_pawl(self.folder, *arguments, env=self.env)
        self.started.append(process)
        return process

    def wait_for_versions(self, count: int) -> None:
        """A job that others start with is slower than a child of this process."""
        self.stored.wait_for_versions(count, 400)

    def end(self) -> None:
        """Nothing that this started outlives its test."""
        for process in self.started:
            if process.process.poll() is None:
                process.kill_everything()

    def jobs(self) -> RayJobs:
        return RayJobs(self.head.jobs_address)

    def job(self) -> str:
        """The name of the newest attempt's job."""
        state = self.stored.state
        return job_name(str(state.run_id), base_fence(state, max(state.attempts)))

    def wait_for_status(self, job: str, *wanted: str) -> None:
        wait_until(lambda: self.jobs().status(job) in wanted, 400, f"{job} {wanted}")

    def kinds(self) -> list[str]:
        """Kinds of all records, in order, read from the store itself."""
        store = self.stored.target.open().store
        found = store.list(log_prefix(self.stored.run))
        return [json.loads(store.get(info.key))["kind"] for info in found]


def write_gate(gate: Path, steps: int) -> None:
    """What the gated loop reads; never half-written."""
    half = gate.with_suffix(".half")
    half.write_text(str(steps))
    half.replace(gate)


def kill(process: PawlProcess) -> None:
    """`kill -9` of the flow's own process and nothing else."""
    os.kill(process.process.pid, signal.SIGKILL)
    process.process.wait(10)
