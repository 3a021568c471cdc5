"""A run of tests that is stopped goes on where it was: a pytest plugin that writes down each outcome, and leaves out what passed.

With `PAWL_JOURNAL=build/test-all.jsonl` every test's outcome is one line of that file, and a later session runs only the
tests that have not passed on the present code: the packages, the pins, and the test's own module as they are now. What
other modules of tests give it may have changed since; who changes those and doubts it removes the file.

The matrices take longer than one machine may be there for. With `PAWL_SLOW_JOURNAL=docs/matrices.jsonl` the outcomes of tests
marked `slow` are kept in that file too, which belongs to the repository: another clone, on another day, goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support.played_commit import played_commit

__all__ = ["Collected", "JournalPlugin", "Line", "code_of", "read_collected", "read_journal"]

_CODE = ("flows", "tasks", "ray_workers", "deployments")
_PINS = ("pyproject.toml", "constraints.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How one test ended once."""

    test: str
    outcome: str
    """`passed`, `failed` or `skipped`."""
    code: str
    """Of what it ran on (`code_of`)."""
    commit: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A test that a session wanted to see pass."""

    test: str
    gpu: bool = False
    """Whether it needs a device that may be absent; no other one may be skipped."""


def code_of(root: Path) -> Callable[[str], str]:
    """From a test's id to a digest of what it ran on: the packages, the pins, and its own module, below `root`."""
    whole = hashlib.sha256()
    for path in sorted(p for name in _CODE for p in (root / name).rglob("*.py")):
        whole.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    for name in _PINS:
        whole.update((root / name).read_bytes() if (root / name).exists() else b"")

    @cache
    def of_module(module: str) -> str:
        own = whole.copy()
        own.update((root / module).read_bytes())
        return own.hexdigest()[:16]

    return lambda test: of_module(test.partition("::")[0])


def read_journal(path: Path) -> list[Line]:
    """All lines, oldest first; the one that was being written when the run was stopped is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(Line(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def read_collected(journal: Path) -> list[Collected]:
    """What the newest session wanted to see pass, what had passed before included."""
    return [
        Collected(test=item["test"], gpu=item["gpu"])
        for item in json.loads(_beside(journal, "collected").read_text())
    ]


class JournalPlugin:
    """Writes and reads the journal.

    Args:
        journal: the file; beside it lie two more, of what is wanted and of what had passed.
        root: folder of the repository.
        speaks: whether this process hears of all tests. Of those that share them each only leaves out what had passed
            when the session began, also one that is started later.
        slow: a second journal, of the slow tests alone; what it tells of other code stays in it until the test has run again.
    """

    def __init__(
        self, journal: Path, root: Path, *, speaks: bool, slow: Path | None = None
    ) -> None:
        self._journal = journal
        self._slow = slow
        self._snapshot = _beside(journal, "passed")
        self._code = code_of(root)
        self._speaks = speaks
        self._seconds: dict[str, float] = {}
        self._worst: dict[str, str] = {}
        if speaks:
            self._commit = played_commit()
            journal.parent.mkdir(parents=True, exist_ok=True)
            known = read_journal(journal)
            if slow is not None:
                known = [*_of_present_code(slow, self._code), *known]
            self._passed = {line.test: line.code for line in known if line.outcome == "passed"}
            self._snapshot.write_text(json.dumps(self._passed))

    def leave_out(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Take from `items` what passed on the present code, and write down what was wanted in all."""
        if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
            _write_collected(_beside(self._journal, "collected"), items)
        passed: Mapping[str, str] = json.loads(self._snapshot.read_text())
        done = [i for i in items if passed.get(i.nodeid) == self._code(i.nodeid)]
        if done:
            config.hook.pytest_deselected(items=done)
            items[:] = [i for i in items if passed.get(i.nodeid) != self._code(i.nodeid)]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """That nothing is left to run is no failure."""
        if self._speaks and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._passed:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has ended when it was torn down; what went worst counts."""
        if not self._speaks:
            return
        test = report.nodeid
        self._seconds[test] = self._seconds.get(test, 0.0) + report.duration
        if report.outcome != "passed":
            self._worst[test] = "failed" if report.failed else self._worst.get(test, "skipped")
        if report.when == "teardown" and "::" in test:
            self._write(test, slow="slow" in report.keywords)

    def _write(self, test: str, *, slow: bool) -> None:
        line = Line(
            test=test,
            outcome=self._worst.pop(test, "passed"),
            code=self._code(test),
            commit=self._commit,
            seconds=round(self._seconds.pop(test), 2),
        )
        _append(self._journal, line)
        if slow and self._slow is not None:
            _append(self._slow, line)


def _append(journal: Path, line: Line) -> None:
    with journal.open("a") as page:
        page.write(json.dumps(asdict(line)) + "\n")


def _of_present_code(journal: Path, code: Callable[[str], str]) -> list[Line]:
    """The lines that tell of the present code. Of other code they stay until their test has run again; of tests that are gone, not."""
    every = read_journal(journal)
    present = [line for line in every if _code(line, code) == line.code]
    again = {line.test for line in present}
    kept = [
        line
        for line in every
        if line in present or (_code(line, code) is not None and line.test not in again)
    ]
    if len(kept) < len(every):
        journal.write_text("".join(json.dumps(asdict(line)) + "\n" for line in kept))
    return present


def _code(line: Line, code: Callable[[str], str]) -> str | None:
    try:
        return code(line.test)
    except FileNotFoundError:
        return None


def _beside(journal: Path, what: str) -> Path:
    return journal.with_suffix(f".{what}.json")


def _write_collected(path: Path, items: Iterable[pytest.Item]) -> None:
    wanted = [
        {"test": item.nodeid, "gpu": item.get_closest_marker("gpu") is not None} for item in items
    ]
    path.write_text(json.dumps(wanted))
