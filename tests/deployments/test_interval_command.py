import json

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from tests.support.factories import MadeUpRun, folder_store


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for step in (10, 20):
        made.commit(step)
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    return made


def call(words, code=0):
    result = CliRunner().invoke(pawl, words.split())
    assert result.exit_code == code, result.output
    return result


@pytest.mark.usefixtures("run")
def test_it_is_explained_for_people_and_for_programs():
    text = call("interval digits").stdout
    for words in (
        "interval",
        "min, by least waste",
        "a save costs",
        "250 ms",
        "failures",
        "predicted",
    ):
        assert words in text
    told = json.loads(call("interval digits --json").stdout)
    assert 60 < told["interval_s"] < 1800
    assert told["bound_by"] == "least waste"
    assert told["failures_per_worker_hour"]["low"] < told["failures_per_worker_hour"]["high"]


@pytest.mark.usefixtures("run")
def test_a_run_that_is_not_there_is_named():
    assert "no run 'absent'" in call("interval absent", code=2).stderr
