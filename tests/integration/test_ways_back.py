"""Every way back, with real processes: what dies, what must happen (README, "Coming back").

Each test ends with the same final digests as an uninterrupted run, and asserts exit code and final state. Whatever dies
does so while training stands at a gate, so it is always the same moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.integration.conftest import POOL, PrefectServer
from tests.integration.harness import new_family, wait_until
from tests.integration.traced_loop import ENTRYPOINT, Gates
from tests.integration.traced_training import INTERVAL, Training, read_flow_run
from tests.support.process_family import Family

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.timeout(1200)]

HELD = 13
"""Training stands ahead of this step: two versions are committed, nothing is in flight, two steps will be done again."""
BOTH = [5, 10]
REDONE = HELD - 1 - BOTH[-1]
EPOCH = 14
"""Saved too, as an epoch's end."""
LATER = 18
"""A second gate, behind that save."""


@pytest.fixture
def training(project: Path, prefect_server: PrefectServer) -> Training:
    return Training(project, prefect_server)


@pytest.fixture
def held(training: Training) -> Gates:
    return training.gates(HELD)


def hold(training: Training, gates: Gates) -> None:
    gates.reach(HELD)
    assert training.stored.steps() == BOTH


def test_an_exception_in_the_loop_is_retried_in_the_same_process(
    training: Training, uninterrupted: list[str]
) -> None:
    process = training.start(raise_at=HELD, retries=1, gates=training.gates(settle=HELD))
    assert process.wait() == 0, process.output
    assert training.stored.final_digests() == uninterrupted
    assert training.outcomes() == ["failed", "completed"]
    assert training.steps_redone() == REDONE
    assert training.flow_run().state_name == "Completed"
    failed, _ = training.stored.state.attempts.values()
    assert "planted failure" in str(failed.reason)


def test_a_killed_train_worker_is_retried_in_the_same_process(
    training: Training, held: Gates, uninterrupted: list[str]
) -> None:
    process = training.start(retries=1, gates=held)
    hold(training, held)
    process.kill_actor("RayTrainWorker")
    held.open(HELD)
    assert process.wait() == 0, process.output
    assert training.stored.final_digests() == uninterrupted
    assert training.outcomes() == ["failed", "completed"]
    assert REDONE <= training.steps_redone() <= REDONE + 1  # the other rank may have begun a step
    assert training.flow_run().state_name == "Completed"


def test_a_killed_checkpoint_actor_goes_on_under_a_fence_of_its_own(
    training: Training, uninterrupted: list[str]
) -> None:
    """It dies between the last shard of a version and the commit: that version is dropped."""
    gates = training.gates(HELD, LATER, settle=HELD)
    process = training.start(gates=gates)
    hold(training, gates)
    process.actor("CheckpointActor").suspend()
    gates.open(HELD)
    wait_until(lambda: training.stored.stored_shards() == 2 * 3, what="the shards of the third")
    gates.reach(LATER)
    process.kill_actor("CheckpointActor")
    gates.open(LATER)
    assert process.wait() == 0, process.output
    state = training.stored.state
    assert training.stored.final_digests() == uninterrupted
    assert [(a.run_count, a.incarnation) for a in state.attempts.values()] == [(1, 0), (1, 1)]
    assert training.stored.steps()[:2] == BOTH
    assert EPOCH not in training.stored.steps()
    assert "in flight is dropped" in process.output
    assert training.steps_redone() == 0  # training itself never stopped
    assert training.flow_run().state_name == "Completed"


def test_a_killed_node_agent_is_restarted_and_reads_the_staged_bytes_again(
    training: Training, uninterrupted: list[str]
) -> None:
    """It dies with a staged version that it did not begin to read: the next one stores it."""
    gates = training.gates(HELD, LATER, settle=HELD)
    process = training.start(gates=gates)
    hold(training, gates)
    process.actor("NodeAgent").suspend()
    gates.open(HELD)
    gates.reach(LATER)  # staging waits for nobody
    assert training.stored.steps() == BOTH
    process.kill_actor("NodeAgent")
    gates.open(LATER)
    assert process.wait() == 0, process.output
    assert training.stored.final_digests() == uninterrupted
    assert training.outcomes() == ["completed"]
    assert training.stored.steps()[:3] == [*BOTH, EPOCH]
    assert training.steps_redone() == 0
    assert training.flow_run().state_name == "Completed"


def test_after_everything_was_killed_the_same_command_resumes(
    training: Training, held: Gates, uninterrupted: list[str]
) -> None:
    process = training.start(gates=held)
    hold(training, held)
    process.kill_everything()
    held.open(HELD)
    again = training.start(gates=held)
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_redone() == REDONE
    assert training.outcomes() == [None, "completed"]
    # Prefect held the dead one to be running; the new one tells it otherwise.
    assert training.flow_run(0).state_name == "Crashed"
    assert training.flow_run(1).state_name == "Completed"
    once_more = training.start(gates=held)
    assert once_more.wait() == 0
    assert "is finished" in once_more.output
    assert training.outcomes() == [None, "completed"]


def test_a_run_that_still_trains_is_refused_and_taken_over_on_demand(
    training: Training, held: Gates, uninterrupted: list[str]
) -> None:
    first = training.start(retries=3, gates=held)
    hold(training, held)
    refused = training.start()
    assert refused.wait() == 1
    assert training.flow_run(0).name in refused.output
    assert "takeover" in refused.output
    assert first.process.poll() is None
    newer = training.start("--takeover", retries=3)
    wait_until(lambda: len(training.stored.state.attempts) == 2, what="the newer attempt")
    held.open(HELD)  # the older one trains on, into a save that it must not commit
    assert first.wait() == 3, first.output
    assert newer.wait() == 0, newer.output
    assert_the_older_one_lost(training)
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_redone() <= REDONE + INTERVAL + 1


def test_a_stopped_attempt_that_wakes_up_later_commits_nothing(
    training: Training, held: Gates, uninterrupted: list[str]
) -> None:
    first = training.start(retries=3, gates=held)
    hold(training, held)
    first.family.freeze()
    newer = training.start("--takeover", retries=3)
    assert newer.wait() == 0, newer.output
    versions = set(training.stored.state.versions)
    held.open(HELD)
    first.family.thaw()
    assert first.wait() == 3, first.output
    assert set(training.stored.state.versions) == versions
    assert_the_older_one_lost(training)
    assert training.stored.final_digests() == uninterrupted


def assert_the_older_one_lost(training: Training) -> None:
    """Cancelled, with nothing committed after it was overtaken; and they did not chase each other."""
    state = training.stored.state
    older, newer = state.attempts
    assert older < newer
    assert all(v.fence == newer for v in state.versions.values() if v.slot > newer)
    lost, won = training.flow_run(0), training.flow_run(1)
    assert (lost.state_name, won.state_name) == ("Cancelled", "Completed")
    assert lost.state is not None
    assert str(won.id) in str(lost.state.message)


def test_forks_and_fresh_starts(training: Training, uninterrupted: list[str]) -> None:
    process = training.start()
    assert process.wait() == 0, process.output
    origin = training.stored.state
    version = origin.newest_first()[-1]
    child = Training(training.project, training.server, "child")
    forked = child.start("--resume", f"run@{version.number}", "--set", "dropout=0.2")
    assert forked.wait() == 0, forked.output
    state = child.stored.state
    assert state.origin is not None
    assert (state.origin.run, state.origin.version.number) == ("run", version.number)
    assert training.stored.state.protected()[version.number] == "fork child starts from it"
    assert child.stored.final_digests() != uninterrupted
    fresh = training.start("--resume", "never")
    assert fresh.wait() == 0, fresh.output
    assert training.stored.final_digests() == uninterrupted
    assert all(training.stored.state.versions[number].abandoned for number in origin.versions)


@pytest.fixture
def deployed(training: Training, held: Gates, prefect_worker: Path) -> Iterator[tuple[str, Family]]:
    """A flow run that the worker has started, and its processes."""
    assert prefect_worker.exists()
    family = new_family()
    yield run_deployment(training, held, family), family
    family.kill()


def test_killed_under_a_worker_the_flow_run_is_crashed_and_retry_resumes(
    training: Training,
    held: Gates,
    deployed: tuple[str, Family],
    uninterrupted: list[str],
    prefect_worker: Path,
) -> None:
    flow_run_id, family = deployed
    hold(training, held)
    (attempt,) = training.stored.state.attempts.values()
    assert attempt.flow_run_id == flow_run_id
    family.kill()
    wait_for_state(training, flow_run_id, "Crashed")
    wait_until(lambda: noticed_by_worker(training, flow_run_id), what="the worker's own report")
    held.open(HELD)
    training.server.cli("flow-run", "retry", flow_run_id)
    wait_for_state(training, flow_run_id, "Completed")
    assert training.stored.final_digests() == uninterrupted
    attempts = training.stored.state.attempts.values()
    assert [(a.flow_run_id, a.run_count) for a in attempts] == [(flow_run_id, 1), (flow_run_id, 2)]
    assert training.steps_redone() == REDONE


def noticed_by_worker(training: Training, flow_run_id: str) -> bool:
    """Whether Prefect's worker has said so too: the runner calls a killed run Crashed, and the worker does once more when it
    notices, which would end a try that had begun by then.
    """
    answer = httpx.post(
        f"{training.server.api_url}/logs/filter",
        json={"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200},
        timeout=60,
    )
    answer.raise_for_status()
    said = [log["message"] for log in answer.json() if log["name"] == "prefect.flow_runs.worker"]
    return any("infrastructure exited" in line or "exceeded its memory" in line for line in said)


def wait_for_state(training: Training, flow_run_id: str, name: str) -> None:
    wait_until(lambda: read_flow_run(training.server, flow_run_id).state_name == name, what=name)


def run_deployment(training: Training, gates: Gates, family: Family, **more: object) -> str:
    """Deploy the flow by its module path to the worker's pool and start it, with `more` parameters; the flow run's id."""
    parameters = {
        "entrypoint": ENTRYPOINT,
        "run": training.stored.run,
        "storage": training.stored.target.url,
        "code_dir": str(training.project),
        "config": training.config(gates),
        "saving": {"every_steps": INTERVAL},
        **more,
    }

    async def deploy() -> str:
        async with get_client() as client:
            flow_id = await client.create_flow_from_name("pawl-train")
            deployment_id = await client.create_deployment(
                flow_id=flow_id, name=f"ways-back-{time.time_ns()}", work_pool_name=POOL, entrypoint="flows.train.train",
                path=str(training.project), parameters=parameters, enforce_parameter_schema=False,
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(training.project)}}],
                job_variables={"env": {**training.environment, **family.environment}},
            )  # fmt: skip
            return str((await client.create_flow_run_from_deployment(deployment_id)).id)

    with temporary_settings({PREFECT_API_URL: training.server.api_url}):
        return asyncio.run(deploy())
