"""The flow against a real Prefect server, training left out: bad input is one sentence, final, and leaves nothing behind.

And the other endings of an attempt: what is retried, what is not, and what the log and the flow run say afterwards.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

import flows.train as flow_module
from deployments.cli import pawl
from ray_workers.config import Validation
from ray_workers.store.attempts import read_run, start_attempt, this_process
from ray_workers.store.errors import (
    DigestMismatchError,
    FenceLostError,
    InvalidInputError,
    TrainingFailedError,
)
from ray_workers.store.log import RunLog
from tests.integration.conftest import PrefectServer
from tests.support.factories import MadeUpRun, flip_byte, folder_store
from tests.support.real_folders import immutable

pytestmark = pytest.mark.prefect

LOOP = "def loop(config):\n    raise AssertionError('training is left out here')\n"


class Calls(list[Any]):
    """What stands in for training: notes the resume point, and does what the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[Any, int], None] = lambda attempt, call: None  # noqa: ARG005

    def __call__(self, attempt: Any, resume: Any) -> None:
        if attempt.finished is None:
            self.append(resume)
            self.act(attempt, len(self))


@pytest.fixture
def calls(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Calls]:
    """A project folder with a loop, and the flow of this process on the server, without Ray."""
    (tmp_path / "pawl_project.py").write_text(LOOP)
    (tmp_path / "pawl_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name, value in prefect_server.env.items():
        monkeypatch.setenv(name, value)
    before = set(sys.modules)
    made = Calls()
    monkeypatch.setattr(flow_module, "run_training", made)
    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        yield made
    for name in set(sys.modules) - before:
        if name.startswith("pawl_"):
            del sys.modules[name]


def pawl_train(*words: str, entrypoint: str = "pawl_project:loop") -> Result:
    arguments = ["train", entrypoint, "--run", "run", "--storage", "store", *words]
    return CliRunner().invoke(pawl, arguments)


def newest_flow_run() -> FlowRun:
    async def read() -> FlowRun:
        async with get_client() as client:
            found = await client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
            return found[0]

    return asyncio.run(read())


def made_up_run(folder: Path, name: str = "run") -> MadeUpRun:
    made = MadeUpRun(store=folder_store(folder / "store"), name=name)
    made.start()
    for step in (10, 20):
        made.commit(step)
    made.end("failed")
    return made


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


def test_read_only_storage_is_refused_and_nothing_is_written(calls: Calls) -> None:
    Path("store").mkdir()
    with immutable(Path("store")):
        result = pawl_train()
    assert result.exit_code == 2, result.output
    assert "Error: " in result.stderr
    assert newest_flow_run().run_count == 1
    assert list(Path("store").iterdir()) == []
    assert calls == []


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


# --- other endings ---------------------------------------------------------------------------------------------------


def run_flow(**values: Any) -> Any:
    flow = flow_module.train.with_options(retries=2, retry_delay_seconds=0)
    return flow("pawl_project:loop", run="run", storage="store", return_state=True, **values)


def test_what_may_succeed_later_is_retried(calls: Calls) -> None:
    def fail_once(_: Any, call: int) -> None:
        if call == 1:
            raise TrainingFailedError("planted")

    calls.act = fail_once
    assert run_flow().is_completed()
    assert newest_flow_run().run_count == 2
    ends = [a.outcome for a in read_run(folder_store(Path("store")), "run").attempts.values()]
    assert ends == ["failed", "completed"]


def test_a_refusal_in_training_is_not_retried(calls: Calls) -> None:
    def refuse(_: Any, __: int) -> None:
        raise InvalidInputError("planted")

    calls.act = refuse
    assert run_flow().is_failed()
    assert newest_flow_run().run_count == 1
    assert len(calls) == 1
    (attempt,) = read_run(folder_store(Path("store")), "run").attempts.values()
    assert (attempt.outcome, attempt.reason) == ("failed", "planted")


def test_bytes_found_bad_in_a_worker_are_quarantined_and_the_retry_falls_back(
    calls: Calls,
) -> None:
    made = made_up_run(Path())

    def bad_bytes(_: Any, call: int) -> None:
        if call == 1:
            key = made.shard_keys(2)[0]
            raise DigestMismatchError(f"{key} is damaged.", key=key)

    calls.act = bad_bytes
    assert run_flow().is_completed()
    assert [point.name.number for point in calls] == [2, 1]
    quarantine = read_run(made.store, "run").versions[2].quarantine
    assert quarantine == f"{made.shard_keys(2)[0]} is damaged."


def test_damage_elsewhere_quarantines_no_good_version(calls: Calls) -> None:
    made = made_up_run(Path())

    def bad_root(_: Any, call: int) -> None:
        if call == 1:
            raise DigestMismatchError("pawl.json is damaged.", key="pawl.json")

    calls.act = bad_root
    assert run_flow().is_completed()
    assert [point.name.number for point in calls] == [2, 2]
    assert read_run(made.store, "run").versions[2].quarantine is None


def test_a_version_damaged_before_the_start_is_passed_over(calls: Calls) -> None:
    made = made_up_run(Path())
    flip_byte(Path("store"), made.shard_keys(2)[1])
    assert run_flow().is_completed()
    assert [point.name.number for point in calls] == [1]


def test_a_lost_fence_is_cancelled_and_not_retried(calls: Calls) -> None:
    def lose(attempt: Any, _: int) -> None:
        log = RunLog(folder_store(Path("store")), "run", by=this_process())
        fence = start_attempt(log, flow_run_id="newer", run_count=1)
        by = {"flow_run_id": "newer", "run_count": 1, "fence": fence}
        raise FenceLostError("Run 'run' was taken over.", fence=attempt.fence, by=by)

    calls.act = lose
    result = pawl_train()
    assert (result.exit_code, len(calls)) == (3, 1)
    assert "Cancelled: Run 'run' was taken over." in result.stderr
    state = newest_flow_run().state
    assert state is not None
    assert state.is_cancelled()
    newest = read_run(folder_store(Path("store")), "run").open_attempt
    assert newest is not None
    assert newest.flow_run_id == "newer"  # the loser ended nothing of the winner's


def test_a_retry_forks_and_rolls_back_no_second_time(calls: Calls) -> None:
    made = made_up_run(Path())

    def fail_once(_: Any, call: int) -> None:
        if call in {1, 3}:
            raise TrainingFailedError("planted")

    calls.act = fail_once
    flow = flow_module.train.with_options(retries=1, retry_delay_seconds=0)

    def train(run: str) -> State[Any]:
        checks = Validation(required="committed")
        return flow(
            "pawl_project:loop", run=run, storage="store", validation=checks, resume="run@1", return_state=True
        )  # fmt: skip

    assert train("fork").is_completed()
    assert [(p.run, p.name.number, p.foreign) for p in calls] == [("run", 1, True)] * 2
    assert len(read_run(made.store, "run").pins) == 1
    assert train("run").is_completed()
    assert [(p.run, p.name.number) for p in calls[2:]] == [("run", 1)] * 2
    slots = [v.abandoned for v in read_run(made.store, "run").versions.values()]
    assert slots == [False, True]


def test_a_finished_run_says_so_and_trains_on_only_if_asked_for_more(calls: Calls) -> None:
    def commit(attempt: Any, _: int) -> None:
        made = MadeUpRun(store=folder_store(Path("store")), name="run")
        made.fence = attempt.fence
        made.series = [(step, 1.0) for step in range(1, 10 * len(calls))]
        made.commit(10 * len(calls), config=dict(attempt.request.config))

    calls.act = commit
    assert pawl_train("--set", "epochs=1").exit_code == 0
    again = pawl_train("--set", "epochs=1")
    assert (again.exit_code, len(calls)) == (0, 1)
    assert "is finished" in again.stdout
    assert pawl_train("--set", "epochs=2").exit_code == 0
    assert len(calls) == 2
    assert lineage_headline(newest_flow_run()).startswith("**completed**")


def lineage_headline(flow_run: FlowRun) -> str:
    wanted = ArtifactFilterFlowRunId(any_=[flow_run.id])
    key = ArtifactFilterKey(any_=["lineage-run"])
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=wanted, key=key)
        )
    return str(artifact.description)
