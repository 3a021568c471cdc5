import json

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from deployments.text_tables import seconds_text
from tests.support.factories import MadeUpRun, folder_store


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    made.commit(10)
    made.judge(1)
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    return made


def call(words, code=0):
    result = CliRunner().invoke(pawl, words.split())
    assert result.exit_code == code, result.output
    return result


@pytest.mark.usefixtures("run")
def test_a_healthy_store_is_told_in_a_few_lines_and_code_nought():
    text = call("health").stdout
    assert text.startswith("READY  the one run can come back")
    assert "digits" in text.splitlines()[2]
    assert "kept; digits" in text


def test_a_missed_objective_is_code_one(run):
    run.end("failed", "disk full")
    text = call("health --quick", code=1).stdout
    assert text.startswith("WARNING  1 of 1 runs would come back, but not as promised")
    assert "storage:" not in text
    assert "disk full" in text
    assert (
        "digits: it failed and nobody goes on with it; it would resume from version 1 → run the same"
        in text
    )


def test_a_dropped_save_is_told_with_its_reason(run):
    run.told = {"dropped_saves": "1", "dropped_reason": "403 from the store"}
    run.commit(20)
    text = call("health --quick").stdout
    assert "digits: 1 save became no version, the last: 403 from the store" in text


@pytest.mark.usefixtures("run")
def test_json_for_scripts():
    report = json.loads(call("health --json --keep-last 1 --budget-gb 1").stdout)
    assert (report["verdict"], report["runs"][0]["rungs"]["sound"]["number"]) == ("ready", 1)
    assert report["storage"]["budget"] == 1_000_000_000
    assert report["storage"]["retention_would_free"] == 0
    assert report["objective"]["at_risk_s"] == 600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (3.25, "3.2 s"), (65, "1 min"), (3700, "1 h 1 min"), (7200, "2 h"), (180_000, "2 d 2 h")],
)  # fmt: skip
def test_durations_are_short(seconds, text):
    assert seconds_text(seconds) == text
