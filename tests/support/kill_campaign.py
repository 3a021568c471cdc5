"""Training killed with SIGKILL at moments drawn from a printed seed, until it ends: the bits of an uninterrupted run?

python -m tests.support.kill_campaign --kills 30 --seed 7 --report docs/reliability.md

Runs add up: every kill is a line of the file `--rows`, and what stands there is not played again. The table is made of all
of them once none is missing. Ends with 1, and keeps its folder, if a run did not end with the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ray_workers.store.opening import StorageTarget
from tests.integration.harness import (
    PawlProcess,
    StoredRun,
    start_pawl,
    train_arguments,
    wait_until,
)
from tests.integration.measured import Server
from tests.support.kill_plan import LOOPS, TARGETS, Kill, Row, add, draw, missing, read, write_into
from tests.support.played_commit import played_commit

__all__ = ["Campaign", "campaign", "main"]

_PATIENCE_S = 900.0
_TITLES = {"worker": "RayTrainWorker", "actor": "CheckpointActor", "agent": "NodeAgent"}
_OTHER_FENCE = ("worker", "actor", "flow", "raylet")
"""Who goes on after their death does so under a fence of its own."""
_STARTS = 12
"""A run that is begun more often than this does not come back by being begun again."""


@dataclass(slots=True)
class Campaign:
    """Runs of one folder store below `folder`, with a Prefect server of their own."""

    folder: Path
    server: Server
    expected: dict[str, list[str]] = field(default_factory=dict)

    def uninterrupted(self, loop: str) -> list[str]:
        """Shard digests at the end of the loop when nothing happens to it."""
        if loop not in self.expected:
            run = _Run(self, loop, f"whole-{loop}")
            try:
                run.to_the_end()
                self.expected[loop] = run.stored.final_digests()
            finally:
                run.kill()
        return self.expected[loop]

    def play(self, kills: Sequence[Kill], *, seed: int, number: int) -> list[Row]:
        """One run and all that happens to it."""
        expected = self.uninterrupted(kills[0].loop)
        run = _Run(self, kills[0].loop, f"killed-{number}")
        try:
            hits = [run.suffer(kill) for kill in kills]
            run.to_the_end()
            same = run.stored.final_digests() == expected
        finally:
            run.kill()
        return [
            Row(
                commit=played_commit(),
                seed=seed,
                run=number,
                loop=kill.loop,
                target=kill.target,
                step=hit.step,
                seconds=round(hit.back_after_s, 1),
                started_again=hit.started_again,
                identical=same,
            )
            for kill, hit in zip(kills, hits, strict=True)
        ]


@dataclass(slots=True)
class _Hit:
    step: int
    back_after_s: float
    started_again: bool


class _Run:
    def __init__(self, campaign: Campaign, loop: str, name: str) -> None:
        self._campaign = campaign
        self._entrypoint, self._config = LOOPS[loop]
        target = StorageTarget(str(campaign.folder / "store"))
        self.stored = StoredRun(target=target, run=name)
        self._started: list[PawlProcess] = []
        self._start()

    @property
    def _process(self) -> PawlProcess:
        return self._started[-1]

    def _start(self) -> None:
        """Begin it (again). What a dead flow left behind lives on meanwhile, as it would."""
        assert len(self._started) < _STARTS, f"{self.stored.run} was begun {_STARTS} times"
        arguments = train_arguments(
            self.stored.run, "--storage", self.stored.target.url, "--retries", "5",
            entrypoint=self._entrypoint, config=self._config,
        )  # fmt: skip
        env = {**self._campaign.server.env, "RAY_AUTH_MODE": "disabled"}
        self._started.append(start_pawl(self._campaign.folder, *arguments, env=env))

    def suffer(self, kill: Kill) -> _Hit:
        """Wait for the moment, kill, and wait until a version shows that training goes on."""
        before = self.stored.committed()
        self._wait(lambda: self.stored.committed() >= before + kill.after)
        time.sleep(kill.delay_s)
        process = wait_until(lambda: self._find(kill), _PATIENCE_S, f"a {kill.target}")
        state, starts = self.stored.state, len(self._started)
        begun = time.monotonic()
        process.send_signal(signal.SIGKILL)
        newest = state.newest_first()[0]
        _say(f"  {self.stored.run}: {kill.target} killed at version {newest.number}")
        under = max(state.attempts) if kill.target in _OTHER_FENCE else 0
        self._wait(lambda: self._goes_on(newest.number, under), or_ended=kill.target == "raylet")
        return _Hit(
            step=newest.step,
            back_after_s=time.monotonic() - begun,
            started_again=len(self._started) > starts,
        )

    def _goes_on(self, number: int, fence: int) -> bool:
        """There is a version after `number`, made under a fence above `fence`."""
        found = self.stored.state.versions.values()
        return any(version.number > number and version.fence > fence for version in found)

    def _find(self, kill: Kill) -> psutil.Process | None:
        if self._process.process.poll() is not None:
            self._start()
            return None
        if kill.target == "flow":
            return psutil.Process(self._process.process.pid)
        found = (
            self._raylets()
            if kill.target == "raylet"
            else self._process.actors(_TITLES[kill.target])
        )
        return found[int(kill.which * len(found))] if found else None

    def _raylets(self) -> list[psutil.Process]:
        found = []
        for process in self._process.family.members():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if process.name() == "raylet":
                    found.append(process)
        return found

    def _wait(self, true: Callable[[], bool], *, or_ended: bool = False) -> None:
        """Until it is true; a process that ended without success meanwhile is started again."""

        def there() -> bool:
            if true():
                return True
            if (code := self._process.process.poll()) is None:
                return False
            if code == 0 and or_ended:
                return True
            assert code != 0, (
                f"{self.stored.run} ended before its time: {self._process.output[-3000:]}"
            )
            self._start()
            return False

        wait_until(there, _PATIENCE_S, f"{self.stored.run} goes on")

    def to_the_end(self) -> None:
        while self._process.wait(_PATIENCE_S) != 0:
            self._start()

    def kill(self) -> None:
        """End what is left of every process that was begun."""
        for process in self._started:
            process.kill_everything()


@contextlib.contextmanager
def campaign() -> Iterator[Campaign]:
    """A folder, and a Prefect server; both go at the end. After an error the folder stays, to be looked at."""
    folder = Path(tempfile.mkdtemp(prefix="pawl-kills-"))
    (folder / "prefect").mkdir()
    server = Server(folder / "prefect")
    try:
        server.start()
        yield Campaign(folder, server)
    except BaseException:
        _say(f"logs and store are in {folder}")
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        server.kill()


def _play_missing(options: argparse.Namespace) -> None:
    runs = draw(options.kills, options.seed, loops=tuple(LOOPS), targets=tuple(TARGETS))
    left = missing(runs, options.seed, read(options.rows))[: options.runs]
    if not left:
        return
    with campaign() as made:
        for number in left:
            rows = made.play(runs[number], seed=options.seed, number=number)
            add(options.rows, rows)
            for row in rows:
                _say(f"  {row}")
            if not all(row.identical for row in rows):
                raise AssertionError(f"run {number} did not end with the same bits")


def main() -> int:
    """Parse the command line, kill, print; the exit status."""
    options = _options()
    _say(f"seed {options.seed}: {options.kills} kills")
    try:
        _play_missing(options)
    except AssertionError as error:
        _say(str(error))
        return 1
    rows = read(options.rows)
    runs = draw(options.kills, options.seed, loops=tuple(LOOPS), targets=tuple(TARGETS))
    if left := missing(runs, options.seed, rows):
        _say(f"still missing: runs {left} of {len(runs)}; no table yet")
    elif options.report is not None:
        mine = [row for row in rows if row.seed == options.seed]
        options.report.write_text(write_into(options.report.read_text(), mine))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kill_campaign", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1000, help="play so many of the missing ones")
    parser.add_argument("--rows", type=Path, default=Path("build/kills.jsonl"))
    parser.add_argument("--report", type=Path, help="the page that gets the table")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
