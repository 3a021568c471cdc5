from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.policies.failure_words import Failure
from tests.support.factories import MadeUpRun, folder_store

FAILURE = Failure(
    rank=1, error="ValueError", said="out of memory", node="trainer-2", noticed_s=0.001
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for step in (10, 20):
        made.commit(step)
    made.judge(1)
    made.judge(2, reason="NaN")
    made.end("failed", FAILURE.text("digits"))
    made.start(1, passed_over={2: "NaN"})
    made.commit(40)
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    return made


def call(words: str) -> str:
    result = CliRunner().invoke(pawl, words.split())
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("run")
def test_an_interruption_is_explained():
    text = call("explain digits")
    assert "attempt 1 → attempt 2" in text
    for words in (
        "exception: Training of run 'digits' failed on rank 1",
        "rank 1, node trainer-2, flow on host ",
        "the newest at rung committed or above that held up",
        "detect 0",
        "1 (step 10)",
        "2: NaN",
        "10 or more",
    ):
        assert words in text, words


def test_an_actor_started_again_costs_nothing(run):
    run.restart_actor()
    text = call("explain digits").split("attempt 2 → attempt 3")[1]
    for words in (
        "actor restarted",
        "nothing after version 3 (step 40)",
        "training went on while",
        "steps lost",
        "none",
    ):
        assert words in text, words
    assert json.loads(call("explain digits --json"))[1]["seconds"] == {}


@pytest.mark.usefixtures("run")
def test_as_json():
    (item,) = json.loads(call("explain digits --json"))
    assert (item["before"], item["attempt"], item["ended_by"]) == (1, 2, "exception")
    assert (item["rank"], item["node"]) == (1, "trainer-2")
    assert item["why"].startswith("the newest at rung committed")
    assert (item["resumed"], item["step"], item["steps_lost"]) == ("1", 10, 10)
    assert item["seconds"].keys() >= {"in vain", "schedule", "choose"}


def test_a_run_that_was_never_interrupted(tmp_path, monkeypatch):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    assert call("explain digits") == "Run 'digits' was never interrupted.\n"
