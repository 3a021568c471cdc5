"""Every way back, with real processes: what dies, what must happen (README, "Coming back").

Each test ends with the same final digests as an uninterrupted run, and asserts exit code and final state. Whatever dies
does so while training stands at a gate, so it is always the same moment.
"""

from __future__ import annotations

import asyncio
import shutil
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


def test_an_exception_and_then_a_killed_train_worker_are_retried_in_the_same_process(
    training: Training, held: Gates, uninterrupted: list[str]
) -> None:
    """The loop raises ahead of step 13; the next try stands at its own thirteenth, which is step 23, when a worker is killed."""
    process = training.start(raise_at=HELD, retries=2, gates=held)
    held.reach(HELD)
    assert training.stored.steps() == [*BOTH, EPOCH, 15, 20]
    process.kill_actor("RayTrainWorker")
    held.open(HELD)
    assert process.wait() == 0, process.output
    assert training.stored.final_digests() == uninterrupted
    assert training.outcomes() == ["failed", "failed", "completed"]
    raised, killed, _ = training.stored.state.attempts.values()
    assert "planted failure" in str(raised.reason)
    assert "planted failure" not in str(killed.reason)
    assert 2 * REDONE <= training.steps_redone() <= 2 * REDONE + 1  # one rank may be a step ahead
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


@pytest.mark.long
def test_what_was_staged_when_a_worker_was_killed_still_becomes_a_version(
    training: Training, uninterrupted: list[str]
) -> None:
    """The node agent had not begun to read it: it has the bytes, and needs the worker no more."""
    gates = training.gates(HELD, LATER, settle=HELD)
    process = training.start(gates=gates, retries=1)
    hold(training, gates)
    agent = process.actor("NodeAgent")
    agent.suspend()
    gates.open(HELD)
    gates.reach(LATER)
    assert training.stored.steps() == BOTH
    process.kill_actor("RayTrainWorker")
    agent.resume()
    gates.open(LATER)
    assert process.wait() == 0, process.output
    first, second = training.stored.state.attempts.values()
    (staged,) = (v for v in training.stored.state.versions.values() if v.step == EPOCH)
    assert staged.fence == first.fence
    assert second.resume is not None
    assert second.resume.number == staged.number
    assert training.outcomes() == ["failed", "completed"]
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_redone() <= LATER - 1 - EPOCH + 1


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
    """The first is stopped (SIGSTOP) and taken over by a second, which still trains when a third takes over; then the first wakes."""
    first = training.start(retries=3, gates=held)
    hold(training, held)
    refused = training.start()
    assert refused.wait() == 1
    assert training.flow_run(0).name in refused.output
    assert "takeover" in refused.output
    assert first.process.poll() is None
    first.family.freeze()
    seconds_gates = Gates(training.project / "gates-of-the-second", (HELD,))
    second = training.start("--takeover", retries=3, gates=seconds_gates)
    seconds_gates.reach(HELD)
    third = training.start("--takeover", retries=3)
    wait_until(lambda: len(training.stored.state.attempts) == 3, what="the third attempt")
    seconds_gates.open(HELD)  # it trains on, into a save that it must not commit
    assert second.wait() == 3, second.output
    assert third.wait() == 0, third.output
    versions = set(training.stored.state.versions)
    held.open(HELD)
    first.family.thaw()
    assert first.wait() == 3, first.output
    assert set(training.stored.state.versions) == versions
    assert_the_older_ones_lost(training)
    assert training.stored.final_digests() == uninterrupted


def assert_the_older_ones_lost(training: Training) -> None:
    """Cancelled, with nothing committed after they were overtaken; and they did not chase each other."""
    state = training.stored.state
    fences = list(state.attempts)
    assert fences == sorted(fences)
    assert len(fences) == 3
    for version in state.versions.values():
        assert version.fence == max(fence for fence in fences if fence < version.slot)
    runs = [training.flow_run(index) for index in range(3)]
    assert [run.state_name for run in runs] == ["Cancelled", "Cancelled", "Completed"]
    for lost in runs[:2]:
        assert lost.state is not None
        assert str(runs[2].id) in str(lost.state.message)


def test_forks_and_fresh_starts(
    project: Path,
    prefect_server: PrefectServer,
    uninterrupted_store: Path,
    uninterrupted: list[str],
) -> None:
    training, child = (Training(project, prefect_server, run) for run in ("whole", "child"))
    shutil.copytree(uninterrupted_store, project / "store")
    origin = training.stored.state
    version = origin.newest_first()[-1]
    forked = child.start("--resume", f"whole@{version.number}", "--set", "dropout=0.2")
    assert forked.wait() == 0, forked.output
    state = child.stored.state
    assert state.origin is not None
    assert (state.origin.run, state.origin.version.number) == ("whole", version.number)
    assert training.stored.state.protected()[version.number] == "fork child starts from it"
    assert child.stored.final_digests() != uninterrupted
    assert child.outcomes() == ["completed"]
    assert child.flow_run().state_name == "Completed"
    assert f"resumed from **whole@{version.number}**" in child.page()
    fresh = training.start("--resume", "never")
    assert fresh.wait() == 0, fresh.output
    assert training.stored.final_digests() == uninterrupted
    assert all(training.stored.state.versions[number].abandoned for number in origin.versions)
    assert training.flow_run(-1).state_name == "Completed"
    assert "started from nothing: so it was asked for (resume: never)" in training.page(-1)


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
