"""A loop of a user's own whose moments a test chooses: it writes down each step, waits at gates, raises or hangs if asked to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.harness import PATIENCE_S, wait_until

__all__ = ["ENTRYPOINT", "Gates", "write_traced_loop"]

ENTRYPOINT = "traced:train_loop"
RANKS = 2
_TRACED = '''
"""The digits loop, which stands still ahead of some steps until a file says go on."""
import os
import time
from pathlib import Path

from ray_workers.loops import digits
from ray_workers.session import CheckpointSession

_step, _open = digits.step, CheckpointSession.open
_sessions = []


def _open_and_keep(**parts):
    _sessions.append(_open(**parts))
    return _sessions[-1]


def _hear_of_the_last_save():
    """As the session does when it decides on the next save, but waiting for the answer."""
    session = _sessions[-1]
    session._rounds.settle(600)


def _hang_for_ever():
    while True:
        time.sleep(1)


def train_loop(config):
    config = dict(config)
    hang_at = config.pop("hang_at", 0)
    trace = Path(config.pop("trace"))
    raise_at = config.pop("raise_at", 0)
    gates = {"folder": ".", "steps": [], "settle": 0} | config.pop("gates", {})
    rank = os.environ.get("RANK", "0")
    done = 0  # steps of this process

    def wait_at_gate():
        folder = Path(gates["folder"])
        (folder / f"{done}.{rank}.waits").touch()
        while not (folder / f"{done}.open").exists():
            # as at a meeting of the ranks: the first of them asks whether to go on
            if rank == "0" and _sessions[-1]._context.pipeline.stop_request() is not None:
                (folder / f"{done}.asked").touch()
            time.sleep(0.02)

    def step(*parts):
        nonlocal done
        done += 1
        marker = trace.with_suffix(".raised")
        if done == raise_at and rank == "0" and not marker.exists():
            marker.touch()
            raise RuntimeError("planted failure")
        hung = trace.with_suffix(".hung")
        if done == hang_at and rank == "1" and not hung.exists():
            hung.touch()
            _hang_for_ever()
        if done <= gates["settle"]:
            _hear_of_the_last_save()
        if done in gates["steps"]:
            wait_at_gate()
        with trace.open("a") as out:
            out.write(f"{rank} {done}\\n")
        return _step(*parts)

    digits.step, CheckpointSession.open = step, _open_and_keep
    digits.train_loop(config)
'''


def write_traced_loop(project: Path) -> None:
    """Put it into a project folder, as the module `traced`."""
    (project / "traced.py").write_text(_TRACED)


@dataclass(frozen=True, slots=True)
class Gates:
    """Places ahead of a step at which every rank waits until it is opened; it then stays open, for later attempts too.

    Up to step `settle` the loop also waits for the answer to each save before it goes on: every save that is due is made,
    and a rank that waits at a gate has them all behind it. Past it, training runs free.
    """

    folder: Path
    steps: tuple[int, ...] = ()
    """Counted by each worker process from its own start."""
    settle: int | None = None
    """None: until the last gate."""

    @property
    def config(self) -> dict[str, Any]:
        """What the loop must be told."""
        self.folder.mkdir(exist_ok=True)
        settle = max(self.steps, default=0) if self.settle is None else self.settle
        return {"folder": str(self.folder), "steps": list(self.steps), "settle": settle}

    def reach(self, step: int) -> None:
        """Return when every rank stands at this gate."""
        waits = [self.folder / f"{step}.{rank}.waits" for rank in range(RANKS)]
        wait_until(
            lambda: all(path.exists() for path in waits), PATIENCE_S, f"workers at gate {step}"
        )

    def asked_to_end(self, step: int) -> None:
        """Return when the ranks that stand at this gate have heard that they must end at their next step."""
        told = self.folder / f"{step}.asked"
        wait_until(told.exists, PATIENCE_S, f"the request to end at gate {step}")

    def open(self, *steps: int) -> None:
        """Let training pass."""
        for step in steps:
            (self.folder / f"{step}.open").touch()
