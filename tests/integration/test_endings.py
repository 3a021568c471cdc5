"""How an attempt ends, on a real Prefect server, training left out: what is retried, and what log and flow run say after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun, State

import flows.train as flow_module
from ray_workers.config import Validation
from ray_workers.store.attempts import read_run, start_attempt, this_process
from ray_workers.store.errors import (
    DigestMismatchError,
    FenceLostError,
    InvalidInputError,
    TrainingFailedError,
)
from ray_workers.store.log import RunLog
from tests.integration.without_training import (
    Calls,
    made_up_run,
    newest_flow_run,
    pawl_train,
    run_flow,
)
from tests.support.factories import MadeUpRun, flip_byte, folder_store

pytestmark = pytest.mark.prefect


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
    assert (attempt.outcome, attempt.reason) == ("failed", "planted (error InvalidInputError)")


def test_bytes_found_bad_in_a_worker_are_quarantined_and_the_retry_falls_back(
    calls: Calls,
) -> None:
    made = made_up_run(Path())

    def bad_bytes(_: Any, call: int) -> None:
        if call == 1:
            key = made.shard_keys(2)[0]
            flip_byte(Path("store"), key)
            raise DigestMismatchError(f"{key} is damaged.", key=key)

    calls.act = bad_bytes
    assert run_flow().is_completed()
    assert [point.name.number for point in calls] == [2, 1]
    quarantine = read_run(made.store, "run").versions[2].quarantine
    assert quarantine is not None
    assert made.shard_keys(2)[0] in quarantine


def test_bytes_that_are_bad_in_a_worker_alone_stay_resumable(calls: Calls) -> None:
    made = made_up_run(Path())

    def bad_machine(_: Any, call: int) -> None:
        if call == 1:
            key = made.shard_keys(2)[0]
            raise DigestMismatchError(f"{key} is damaged.", key=key)

    calls.act = bad_machine
    assert run_flow().is_completed()
    assert [point.name.number for point in calls] == [2, 2]
    assert read_run(made.store, "run").versions[2].quarantine is None


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


def take_over(flow_run_id: str = "newer", run_count: int = 1) -> int:
    """As another flow run, or a later try of the same one, does from another process."""
    log = RunLog(folder_store(Path("store")), "run", by={**this_process(), "host": "elsewhere"})
    return start_attempt(log, flow_run_id=flow_run_id, run_count=run_count)


@pytest.mark.parametrize("known", [True, False], ids=["the winner is known", "only the loss is"])
def test_a_lost_fence_is_cancelled_and_not_retried(calls: Calls, *, known: bool) -> None:
    def lose(attempt: Any, _: int) -> None:
        by = {"flow_run_id": "newer", "run_count": 1, "fence": take_over()}
        told = {"by": by} if known else {}
        raise FenceLostError("Run 'run' went to flow run newer." if known else "Lost.", **told)

    calls.act = lose
    result = pawl_train()
    assert (result.exit_code, len(calls)) == (3, 1)
    assert "Cancelled: " in result.stderr
    assert "flow run newer" in result.stderr
    state = newest_flow_run().state
    assert state is not None
    assert state.is_cancelled()
    newest = read_run(folder_store(Path("store")), "run").open_attempt
    assert newest is not None
    assert newest.flow_run_id == "newer"  # the loser ended nothing of the winner's


def test_a_run_lost_to_a_later_try_of_the_same_flow_run_leaves_its_state_alone(
    calls: Calls,
) -> None:
    def lose(attempt: Any, _: int) -> None:
        take_over(attempt.request.identity.flow_run_id, run_count=2)
        raise FenceLostError("Lost.")  # as a worker says it

    calls.act = lose
    result = pawl_train()
    assert result.exit_code == 3, result.output
    assert "Cancelled: " in result.stderr
    state = newest_flow_run().state
    assert state is not None
    assert state.is_running()  # by the later try
    assert len(calls) == 1


@pytest.mark.parametrize("over", [False, True], ids=["newer trains", "newer is over"])
def test_a_retry_in_the_process_that_lost_the_run_takes_nothing_back(
    calls: Calls, *, over: bool
) -> None:
    def lose(attempt: Any, _: int) -> None:
        made = MadeUpRun(store=folder_store(Path("store")), name="run")
        made.fence = take_over()
        if over:
            made.commit(10, config=dict(attempt.request.config))
            made.end("completed")
        raise TrainingFailedError("its cluster fell apart before it learnt that")

    calls.act = lose
    state = run_flow()
    assert state.is_cancelled()
    assert "flow run newer" in str(state.message)
    assert (newest_flow_run().run_count, len(calls)) == (2, 1)
    assert len(read_run(folder_store(Path("store")), "run").attempts) == 2


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
