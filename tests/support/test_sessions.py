"""`make test` runs every test that runs by default once, tells what failed, and gives it a second look alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sessions import LONG, SHORT, default_marks, worst

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
PYPROJECT = """
[tool.pytest.ini_options]
addopts = ["-ra", "-m=not slow"]
markers = ["ray: r", "prefect: p", "slow: s", "long: l"]
"""
TESTS = """
import os
from pathlib import Path
import pytest

def once(name):
    with Path("ran").open("a") as page:
        page.write(name + " ")

def test_plain(): once("plain")

@pytest.mark.ray
def test_ray(): once("ray")

@pytest.mark.slow
def test_slow(): once("slow")

@pytest.mark.long
@pytest.mark.ray
@pytest.mark.prefect
def test_long(): once("long")

@pytest.mark.long
@pytest.mark.slow
def test_long_and_slow(): once("slow")

@pytest.mark.ray
@pytest.mark.prefect
def test_training():
    once("training")
    if os.environ["FAILS"] == "killed":
        os.kill(int(os.environ["SESSION"]), 9)
    good = Path("good").exists() or os.environ["FAILS"] == "never"
    if os.environ["FAILS"] == "beside others":
        Path("good").touch()
    assert good
"""
CONFTEST = """
import os
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        os.environ["SESSION"] = str(os.getpid())

def pytest_sessionfinish(session, exitstatus):
    if os.environ.get("PAWL_REQUIRE_TIERS") == os.environ["MISSES"]:
        session.exitstatus = 8
"""


def run_sessions(
    folder: Path, *options: str, fails: str = "never", misses: str = "no tier"
) -> subprocess.CompletedProcess[str]:
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "test_some.py").write_text(TESTS)
    (folder / "conftest.py").write_text(CONFTEST)
    told = {"PYTHONPATH": str(ROOT), "FAILS": fails, "MISSES": misses}
    return subprocess.run(
        [sys.executable, "-m", "tests.support.sessions", "--processes", "1", *options],
        cwd=folder, env={**os.environ, **told, "PAWL_REQUIRE_TIERS": "unit,ray"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def ran(folder: Path) -> list[str]:
    return sorted((folder / "ran").read_text().split())


def test_each_test_is_run_once_and_no_slow_one(tmp_path: Path) -> None:
    done = run_sessions(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(tmp_path) == ["plain", "ray", "training"]
    assert "2 passed" in done.stdout
    assert "1 passed" in done.stdout


def test_the_long_ones_are_run_by_themselves(tmp_path: Path) -> None:
    done = run_sessions(tmp_path, "--long")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(tmp_path) == ["long"]


def test_what_failed_beside_others_runs_again_alone_and_is_told(tmp_path: Path) -> None:
    done = run_sessions(tmp_path, fails="beside others")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(tmp_path) == ["plain", "ray", "training", "training"]
    assert "FAILED test_some.py::test_training" in done.stdout
    assert "Of the trainings, some failed beside others" in done.stdout


def test_what_fails_again_fails_it(tmp_path: Path) -> None:
    done = run_sessions(tmp_path, fails="always")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert ran(tmp_path) == ["plain", "ray", "training", "training"]


def test_a_missing_tier_gets_no_second_look(tmp_path: Path) -> None:
    done = run_sessions(tmp_path, misses="ray")  # what is required of the trainings
    assert done.returncode == 8
    assert ran(tmp_path) == ["plain", "ray", "training"]


def test_a_session_that_was_killed_has_failed(tmp_path: Path) -> None:
    assert worst([0, -9]) == 1
    assert worst([8, -9]) == 8
    assert worst([0, 0]) == 0
    done = run_sessions(tmp_path, fails="killed")
    assert done.returncode == 1, done.stdout


def test_the_two_cover_what_the_makefile_requires() -> None:
    others, trainings = SHORT
    (long,) = LONG
    assert long.required("unit,s3,ray,prefect") == "unit,s3,ray,prefect"
    assert others.required("unit,s3,ray,prefect") == "unit,s3,prefect"
    assert trainings.required("unit,s3,ray,prefect") == "ray,prefect"
    assert trainings.required("") == ""


def test_the_default_is_that_of_pytest_itself() -> None:
    default = default_marks((ROOT / "pyproject.toml").read_text())
    assert default == "not slow and not benchmark and not gpu"
