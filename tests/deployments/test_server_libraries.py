"""Libraries that pip would let in, and that Prefect's server does not work with."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments import server_libraries
from deployments.cli import pawl
from deployments.server_libraries import SERVER_LIBRARIES, refuse_unfit
from deployments.stack import LocalStack
from ray_workers.store.errors import InvalidInputError


@pytest.fixture
def installed(monkeypatch):
    """Versions that are made up; a library that is not among them is the oldest there is."""
    found: dict[str, str] = {}
    monkeypatch.setattr(server_libraries, "version", lambda name: found.get(name, "0.1.0"))
    return found


@pytest.mark.parametrize(
    ("name", "last_good", "first_bad"),
    [("fastapi", "0.150.9", "0.151.0"), ("sqlalchemy", "2.0.58", "2.1.0b1")],
)
def test_the_first_version_that_breaks_the_server_is_refused(installed, name, last_good, first_bad):
    installed[name] = last_good
    refuse_unfit()
    installed[name] = first_bad
    with pytest.raises(InvalidInputError, match=rf"{name} {first_bad} .*: install '{name}<"):
        refuse_unfit()


def test_only_what_is_asked_for_is_refused(installed):
    installed["sqlalchemy"] = "2.1.9"
    refuse_unfit("fastapi")  # a server for one command plans no runs


def test_no_server_is_started_that_would_plan_no_runs(installed, tmp_path):
    installed["sqlalchemy"] = "2.1.9"
    stack = LocalStack(project=tmp_path, folder=tmp_path / "s", port=1, with_s3=False, tell=print)
    with pytest.raises(InvalidInputError, match="starts no scheduled run"):
        stack.up()


def test_the_doctor_says_so(installed, monkeypatch, tmp_path):
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    installed["sqlalchemy"] = "2.1.9"
    assert "starts no scheduled run" in CliRunner().invoke(pawl, ["doctor", "--json"]).output


def test_what_is_installed_here_and_what_pip_may_install_is_fit():
    refuse_unfit()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    for library in SERVER_LIBRARIES:
        limit = ".".join(map(str, library.breaks_at))
        (line,) = [d for d in project["project"]["dependencies"] if d.startswith(library.name)]
        assert line.endswith(f",<{limit}")
