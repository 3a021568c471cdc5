"""Bad input against a real Prefect server, training left out: one sentence, final, and nothing is left behind."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flows.train as flow_module
from tests.integration.without_training import (
    Calls,
    made_up_run,
    newest_flow_run,
    pawl_train,
)

pytestmark = pytest.mark.prefect


@pytest.fixture
def _the_flow_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pawl train` refuses most of it before Prefect starts (tests/deployments); a deployed flow has only its own checks."""
    monkeypatch.setattr("deployments.train_command.check_training", lambda _: None)
    monkeypatch.setattr("deployments.train_parameters._checked_storage", lambda storage: storage)


def nothing() -> None:
    """No preparation."""


def newer_format() -> None:
    Path("store").mkdir()
    root = {"format": 99, "kind": "local", "root_id": "0" * 32}
    Path("store/pawl.json").write_text(json.dumps(root))


def two_versions() -> None:
    made_up_run(Path())


BAD: list[tuple[str, str, Callable[[], None], str]] = [
    ("nowhere_at_all:loop", "", nothing, "names a module that is not found"),
    ("pawl_project:absent", "", nothing, "has no function 'absent'"),
    ("pawl_project", "", nothing, "not of the form module:function"),
    ("pawl_broken:loop", "", nothing, "ZeroDivisionError: division by zero"),
    ("pawl_project:loop", "--run Bad/Name", nothing, "The run name 'Bad/Name' is not legal"),
    ("pawl_project:loop", "--storage ftp://x/y", nothing, "storage scheme 'ftp'"),
    ("pawl_project:loop", "--code-dir absent", nothing, "is not a folder"),
    ("pawl_project:loop", "--resume run@", nothing, "names no version"),
    ("pawl_project:loop", "--resume run@first", nothing, "no run 'run' to resume version 'first'"),
    ("pawl_project:loop", "--resume run@first", two_versions, "no version 'first'"),
    ("pawl_project:loop", "--resume run@1", nothing, "no run 'run' to resume"),
    ("pawl_project:loop", "--resume other@1", nothing, "no run 'other'"),
    ("pawl_project:loop", "--resume run@7", two_versions, "no version '7'"),
    ("pawl_project:loop", "--run fork --resume run@7", two_versions, "no version '7'"),
    ("pawl_project:loop", "", newer_format, "format 99"),
]


@pytest.mark.usefixtures("_the_flow_is_asked")
@pytest.mark.parametrize(("entrypoint", "words", "prepare", "sentence"), BAD)
def test_bad_input_is_one_sentence_and_final(
    calls: Calls, entrypoint: str, words: str, prepare: Callable[[], None], sentence: str
) -> None:
    prepare()
    before = objects()
    result = pawl_train(*shlex.split(words), entrypoint=entrypoint)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert sentence in line
    flow_run = newest_flow_run()
    assert flow_run.state is not None
    assert (flow_run.state.type.value, flow_run.run_count) == ("FAILED", 1)
    assert objects() == before
    assert calls == []


def objects() -> list[str]:
    """What the store holds of runs."""
    return sorted(str(path) for path in Path("store/runs").rglob("*"))


@pytest.mark.parametrize(
    "values",
    [
        {"scaling": {"workers": 0}},
        {"saving": {"every_steps": 0}},
        {"saving": {"every_seconds": 0}},
        {"validation": {"required": "perfect"}},
        {"config": {"api_key": "hunter2"}},
    ],
    ids=str,
)
def test_bad_values_given_to_the_flow_itself_are_final(
    calls: Calls, values: dict[str, Any]
) -> None:
    state = flow_module.train("pawl_project:loop", run="run", storage="store", return_state=True, **values)  # fmt: skip
    assert state.is_failed()
    assert "hunter2" not in str(state.message)
    assert newest_flow_run().run_count <= 1  # 0: Prefect itself refused the parameters
    assert not Path("store").exists()
    assert calls == []


def test_a_run_that_still_trains_is_refused_by_name_and_not_retried(calls: Calls) -> None:
    def overtaken(attempt: Any, _: int) -> None:
        inner = pawl_train()
        assert inner.exit_code == 1, inner.output
        assert "is being trained by" in inner.stderr
        assert attempt.request.identity.name in inner.stderr

    calls.act = overtaken
    assert pawl_train().exit_code == 0
    assert len(calls) == 1
