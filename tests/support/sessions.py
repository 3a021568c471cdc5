"""`make test`: two pytest sessions side by side, the trainings and all the others; what fails there is looked at again alone.

A training waits for processes that start, and the other tests fill those waits. On two cores there are few: both together
are bound by the processor. One session for both would not do: DataLoader workers die in a process that had connected to
Ray, so there the trainings come last.

`make test-long` (`--long`): what costs most and no way back needs, in one session.

A test that failed beside others runs once more when all sessions are over, and the first one that fails again ends it.
What passed only then is printed as failed above: real clusters on a crowded machine, to be mended. A tier that is missing
(`tests.support.tiers`) gets no second look.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LONG", "SHORT", "Session", "default_marks", "main", "worst"]

_TRAININGS = "ray and prefect"
_SOME_FAILED = 1
_LOGS = Path("build")
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One pytest session: which of the tests that run by default, and the tiers that it can cover."""

    name: str
    which: str
    tiers: frozenset[str]

    def marked(self, default: str) -> str:
        return f"({default}) and ({self.which})"

    def required(self, tiers: str) -> str:
        """Of the `tiers` that are required of both together, those required of this one."""
        return ",".join(tier for tier in tiers.split(",") if tier in self.tiers)


_TIERS = frozenset({"unit", "s3", "ray", "prefect"})
SHORT = (
    Session(name="others", which=f"not ({_TRAININGS}) and not long", tiers=_TIERS - {"ray"}),
    Session(
        name="trainings", which=f"{_TRAININGS} and not long", tiers=frozenset({"ray", "prefect"})
    ),
)
LONG = (Session(name="long", which="long", tiers=_TIERS),)
"""Each test that runs by default is in exactly one of these sessions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; 0 if all passed, else the exit status of pytest, or 1 for a session that a signal ended."""
    parser = argparse.ArgumentParser(prog="make test", description="All tests but the matrices.")
    parser.add_argument("--long", action="store_true", help="the long ones instead of the others")
    parser.add_argument("--processes", type=int, default=2, help="that share each session's tests")
    options = parser.parse_args(arguments)
    default = default_marks(Path("pyproject.toml").read_text())
    _LOGS.mkdir(exist_ok=True)
    sessions = LONG if options.long else SHORT
    shared = ["--durations", "10", "--numprocesses", str(options.processes), "--dist", "worksteal"]
    running = [_start(session, default, shared) for session in sessions]
    for process, log in running:
        for piece in _told(process, log):
            sys.stdout.buffer.write(piece)
            sys.stdout.flush()
    statuses = [process.returncode for process, _ in running]
    return worst(
        _second_look(session, default) if status == _SOME_FAILED else status
        for session, status in zip(sessions, statuses, strict=True)
    )


def worst(statuses: Iterable[int]) -> int:
    """The largest; one that a signal ended, which is negative, counts as failed."""
    return max(status if status >= 0 else _SOME_FAILED for status in statuses)


def default_marks(pyproject: str) -> str:
    """Which tests run when nobody asks for others: the `-m` among pytest's options."""
    options = tomllib.loads(pyproject)["tool"]["pytest"]["ini_options"]["addopts"]
    (marks,) = (option.removeprefix("-m=") for option in options if option.startswith("-m="))
    return str(marks)


def _start(
    session: Session, default: str, how: Sequence[str]
) -> tuple[subprocess.Popen[bytes], Path]:
    log = _LOGS / f"test-{session.name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*_command(session, default), *how], stdout=out, stderr=subprocess.STDOUT,
            env=_environment(session),
        )  # fmt: skip
    return process, log


def _command(session: Session, default: str) -> list[str]:
    # Each remembers its own failures: two sessions that write one memory forget each other's.
    memory = f"cache_dir=.pytest_cache/{session.name}"
    return [sys.executable, "-m", "pytest", "-o", memory, "-m", session.marked(default)]


def _environment(session: Session) -> Mapping[str, str]:
    tiers = session.required(os.environ.get("PAWL_REQUIRE_TIERS", ""))
    return {**os.environ, "PAWL_REQUIRE_TIERS": tiers}


def _told(process: subprocess.Popen[bytes], log: Path) -> Iterator[bytes]:
    """What a session says, as it says it, until it is over."""
    with log.open("rb") as page:
        over = False
        while not over:
            over = _is_over(process)
            while piece := page.read1():
                yield piece


def _is_over(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _second_look(session: Session, default: str) -> int:
    sys.stdout.write(f"Of the {session.name}, some failed beside others; now alone:\n")
    sys.stdout.flush()
    again = ["--numprocesses", "0", "--last-failed", "--last-failed-no-failures", "none"]
    command = [*_command(session, default), *again, "--maxfail", "1"]
    return subprocess.run(
        command, env={**os.environ, "PAWL_REQUIRE_TIERS": ""}, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
