import json

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from tests.support.factories import MadeUpRun, folder_store


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
    made.judge(1, 2)
    made.judge(3, reason="NaN")
    made.tag("prod", 2)
    made.end("failed", "out of memory")
    made.start(2, passed_over={3: "quarantined"})
    made.commit(40)
    made.fork(2, "child").commit(50)
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    return made


def call(words):
    result = CliRunner().invoke(pawl, words.split())
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("run")
def test_attempts_versions_resumes_and_forks_are_drawn():
    lines = call("lineage digits").splitlines()
    assert lines[0] == "digits"
    assert lines[1].startswith("├─ attempt 1  started ")
    assert lines[2] == "│    ●1──●2[prod]──✗3  → failed: out of memory"
    assert lines[3].startswith("├─ attempt 2  resumed from version 2 at")
    assert lines[3].endswith("passed over 3")
    assert lines[4] == "│    ○4  → running"
    assert lines[5] == "├┄ child is forked from version 2"


@pytest.mark.usefixtures("run")
def test_a_fork_says_where_it_comes_from():
    text = call("lineage child")
    assert "╰─ forked from digits@2" in text
    assert "resumed from digits@2" in text


@pytest.mark.usefixtures("run")
def test_as_json():
    found = json.loads(call("lineage digits --json"))
    assert found["forks"] == [{"run": "child", "from": 2}]
    assert [a["versions"] for a in found["attempts"]] == [[1, 2, 3], [4]]
    assert [a["resumed_from"] for a in found["attempts"]] == [None, 2]


def test_very_many_versions_stay_one_line(run):
    for step in range(50, 80):
        run.commit(step)
    assert "older) ──" in call("lineage digits")


def test_an_actor_started_again_resumed_nothing(run):
    run.restart_actor()
    text = call("lineage digits")
    assert "attempt 3  went on after version 4 at " in text
    assert json.loads(call("lineage digits --json"))["attempts"][2]["resumed_from"] == 4
    run.end()
    run.start()
    run.restart_actor()
    assert "attempt 5  went on 2" in call("lineage digits")
