"""A session with a journal runs what has not passed on the present code, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.journal_plugin import read_collected, read_journal

pytestmark = pytest.mark.long

TESTS = """
import pathlib, pytest

def test_good(): pass

def test_bad(): assert pathlib.Path("mended").exists()

def test_left_out(): pytest.skip("no server here")

@pytest.fixture
def breaks():
    yield
    assert pathlib.Path("mended").exists()

def test_torn_down_badly(breaks): pass
"""
SLOW = """
import pytest

def test_quick(): pass

@pytest.mark.slow
def test_hours(): pass
"""
CONFTEST = """
import pathlib
from tests.support.journal_plugin import JournalPlugin

def pytest_configure(config):
    plugin = JournalPlugin(
        pathlib.Path("build/journal.jsonl").resolve(), config.rootpath, speaks=not hasattr(config, "workerinput"),
        slow=pathlib.Path("slow.jsonl").resolve(),
    )
    config.addinivalue_line("markers", "slow: takes hours")
    config.pluginmanager.register(plugin, "pawl-journal")

def pytest_collection_modifyitems(config, items):
    config.pluginmanager.get_plugin("pawl-journal").leave_out(config, items)
"""


@pytest.fixture
def folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv(
        "PYTEST_XDIST_WORKER", raising=False
    )  # these sessions have processes of their own, or none
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS)
    pytester.mkpydir("ray_workers")
    return pytester


def run(folder: pytest.Pytester, *options: str) -> dict[str, int]:
    root = str(Path(__file__).parents[2])
    return folder.runpytest_subprocess(
        "-p", "no:cacheprovider", f"--override-ini=pythonpath={root}", *options
    ).parseoutcomes()


def outcomes(folder: pytest.Pytester) -> list[tuple[str, str]]:
    lines = read_journal(folder.path / "build/journal.jsonl")
    return [(line.test.partition("::")[2], line.outcome) for line in lines]


@pytest.mark.parametrize("options", [(), ("--numprocesses", "2")], ids=["alone", "shared"])
def test_a_second_session_runs_what_has_not_passed(
    folder: pytest.Pytester, options: tuple[str, ...]
) -> None:
    first = run(folder, *options)
    assert (first["passed"], first["failed"], first["errors"], first["skipped"]) == (2, 1, 1, 1)
    assert sorted(outcomes(folder)) == [
        ("test_bad", "failed"), ("test_good", "passed"), ("test_left_out", "skipped"), ("test_torn_down_badly", "failed"),
    ]  # fmt: skip
    (folder.path / "mended").touch()
    assert run(folder, *options) | {"deselected": 1} == {"passed": 2, "skipped": 1, "deselected": 1}
    assert outcomes(folder).count(("test_good", "passed")) == 1
    assert len(read_collected(folder.path / "build/journal.jsonl")) == 4


def test_what_passed_on_other_code_runs_again(folder: pytest.Pytester) -> None:
    run(folder)
    (folder.path / "ray_workers/changed.py").write_text("A = 1\n")
    assert run(folder)["passed"] == 2


def test_what_passed_before_its_own_module_changed_runs_again(folder: pytest.Pytester) -> None:
    run(folder)
    folder.makepyfile(test_it="# another word\n" + TESTS)
    assert run(folder)["passed"] == 2


def test_that_nothing_is_left_is_no_failure(folder: pytest.Pytester) -> None:
    folder.makepyfile(test_it="def test_good(): pass\n")
    run(folder)
    again = folder.runpytest_subprocess(
        "-p", "no:cacheprovider", f"--override-ini=pythonpath={Path(__file__).parents[2]}"
    )
    assert (again.ret, again.parseoutcomes()) == (pytest.ExitCode.OK, {"deselected": 1})


def test_another_clone_goes_on_with_the_slow_ones(folder: pytest.Pytester) -> None:
    folder.makepyfile(test_it=SLOW)
    assert run(folder)["passed"] == 2
    shutil.rmtree(folder.path / "build")  # what stays behind with the machine
    assert run(folder) == {"passed": 1, "deselected": 1}
    assert [line.test for line in read_journal(folder.path / "slow.jsonl")] == [
        "test_it.py::test_hours"
    ]


def test_slow_ones_that_passed_on_other_code_run_again_and_are_told_of_until_then(
    folder: pytest.Pytester,
) -> None:
    def told() -> list[str]:
        return [line.test for line in read_journal(folder.path / "slow.jsonl")]

    folder.makepyfile(test_it=SLOW, test_gone=SLOW)
    run(folder)
    (folder.path / "test_gone.py").unlink()
    (folder.path / "ray_workers/changed.py").write_text("A = 1\n")
    assert run(folder, "-k", "nothing") == {"deselected": 2}
    assert told() == ["test_it.py::test_hours"]  # on the code before
    assert run(folder)["passed"] == 2
    run(folder)
    assert told() == ["test_it.py::test_hours"]  # on this one


def test_a_line_cut_off_is_passed_over(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text(
        '{"test": "a", "outcome": "passed", "code": "1", "commit": "c", "seconds": 1.0}\n{"test": "b", "out'
    )
    assert [line.test for line in read_journal(journal)] == ["a"]
