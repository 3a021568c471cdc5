"""Every way back, with real processes: what dies, what must happen (README, "Coming back").

Each test ends with the same final digests as an uninterrupted run, and asserts exit code and final state.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from ray_workers.store.opening import StorageTarget
from tests.integration.conftest import POOL, PrefectServer
from tests.integration.harness import (
    SMALL,
    PawlProcess,
    StoredRun,
    start_pawl,
    train_arguments,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.prefect]

INTERVAL = 5
SLOW = 3.0
"""Seconds a step, for an attempt that must still be training when a second one has started."""


class Training:
    """One run of the traced loop in a project folder."""

    def __init__(self, project: Path, server: PrefectServer, run: str = "run") -> None:
        self.project, self.server = project, server
        self.trace = project / f"{run}.trace"
        self.stored = StoredRun(target=StorageTarget(str(project / "store")), run=run)

    def start(
        self, *extra: str, raise_at: int = 0, retries: int = 0, step_delay: float = 0.15
    ) -> PawlProcess:
        """`step_delay` is no part of the state: a slow attempt and a fast one end in the same bits."""
        config = {
            **SMALL,
            "trace": str(self.trace),
            "raise_at": raise_at,
            "step_delay": step_delay,
        }
        arguments = train_arguments(
            self.stored.run,
            "--storage",
            "store",
            "--retries",
            str(retries),
            *extra,
            entrypoint="traced:train_loop",
            config=config,
        )
        return start_pawl(self.project, *arguments, env=self.server.env)

    def steps_done(self) -> int:
        """Steps that rank 0 did in all attempts together, redone ones included."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return sum(line.startswith("0 ") for line in lines)

    def steps_redone(self) -> int:
        return self.steps_done() - self.stored.state.newest_first()[0].step

    def outcomes(self) -> list[str | None]:
        return [a.outcome for a in self.stored.state.attempts.values()]

    def flow_run(self, fence_index: int = 0) -> FlowRun:
        """What Prefect says of the flow run of the n-th attempt."""
        attempt = list(self.stored.state.attempts.values())[fence_index]
        return read_flow_run(self.server, attempt.flow_run_id)


def read_flow_run(server: PrefectServer, flow_run_id: str) -> FlowRun:
    with (
        temporary_settings({PREFECT_API_URL: server.api_url}),
        get_client(sync_client=True) as client,
    ):
        return client.read_flow_run(UUID(flow_run_id))


@pytest.fixture
def training(project: Path, prefect_server: PrefectServer) -> Training:
    return Training(project, prefect_server)


def test_an_exception_in_the_loop_is_retried_in_the_same_process(
    training: Training, uninterrupted: list[str]
) -> None:
    process = training.start(raise_at=18, retries=1)
    assert process.wait() == 0, process.output
    assert training.stored.final_digests() == uninterrupted
    assert training.outcomes() == ["failed", "completed"]
    assert training.steps_redone() <= INTERVAL + 1
    assert training.flow_run().state_name == "Completed"
    assert (
        "planted failure" in str(training.stored.state.attempts.popitem())
        or "planted" in process.output
    )


def test_a_killed_train_worker_is_retried_in_the_same_process(
    training: Training, uninterrupted: list[str]
) -> None:
    process = training.start(retries=1)
    training.stored.wait_for_versions(2)
    process.kill_actor("RayTrainWorker")
    assert process.wait() == 0, process.output
    assert training.stored.final_digests() == uninterrupted
    assert training.outcomes() == ["failed", "completed"]
    assert training.steps_redone() <= INTERVAL + 1


def test_a_killed_checkpoint_actor_goes_on_under_a_fence_of_its_own(
    training: Training, uninterrupted: list[str]
) -> None:
    process = training.start()
    training.stored.wait_for_versions(2)
    before = set(training.stored.state.versions)
    process.kill_actor("CheckpointActor")
    assert process.wait() == 0, process.output
    state = training.stored.state
    assert training.stored.final_digests() == uninterrupted
    assert [(a.run_count, a.incarnation) for a in state.attempts.values()] == [(1, 0), (1, 1)]
    assert before <= set(state.versions)
    assert training.steps_redone() == 0  # training itself never stopped


def test_a_killed_node_agent_is_restarted_and_reads_the_staged_bytes_again(
    training: Training, uninterrupted: list[str]
) -> None:
    process = training.start()
    training.stored.wait_for_versions(2)
    process.kill_actor("NodeAgent")
    assert process.wait() == 0, process.output
    assert training.stored.final_digests() == uninterrupted
    assert training.outcomes() == ["completed"]
    assert training.steps_redone() == 0


def test_after_everything_was_killed_the_same_command_resumes(
    training: Training, uninterrupted: list[str]
) -> None:
    process = training.start()
    training.stored.wait_for_versions(2)
    process.kill_everything()
    again = training.start()
    assert again.wait() == 0, again.output
    assert training.stored.final_digests() == uninterrupted
    assert training.steps_redone() <= INTERVAL + 1
    assert training.outcomes() == [None, "completed"]
    # Prefect held the dead one to be running; the new one tells it otherwise.
    assert training.flow_run(0).state_name == "Crashed"
    once_more = training.start()
    assert once_more.wait() == 0
    assert "is finished" in once_more.output
    assert training.outcomes() == [None, "completed"]


def test_a_run_that_still_trains_is_refused_and_taken_over_on_demand(
    training: Training, uninterrupted: list[str]
) -> None:
    first = training.start(retries=3, step_delay=SLOW)
    training.stored.wait_for_versions(1)
    refused = training.start()
    assert refused.wait() == 1
    name = training.flow_run(0).name
    assert name in refused.output
    assert "takeover" in refused.output
    assert first.process.poll() is None
    newer = training.start("--takeover")
    assert first.wait() == 3, first.output
    assert newer.wait() == 0, newer.output
    assert training.flow_run(0).state_name == "Cancelled"
    assert training.stored.final_digests() == uninterrupted
    state = training.stored.state
    first_fence, newer_fence = state.attempts
    assert all(v.fence == newer_fence for v in state.versions.values() if v.slot > newer_fence)
    assert len(state.attempts) == 2  # they did not chase each other
    assert first_fence < newer_fence


def test_a_stopped_attempt_that_wakes_up_later_commits_nothing(
    training: Training, uninterrupted: list[str]
) -> None:
    first = training.start(retries=3, step_delay=SLOW)
    training.stored.wait_for_versions(1)
    signal_tree(first, signal.SIGSTOP)
    newer = training.start("--takeover")
    assert newer.wait() == 0, newer.output
    versions = set(training.stored.state.versions)
    signal_tree(first, signal.SIGCONT)
    assert first.wait() in (3, 1), first.output
    assert set(training.stored.state.versions) == versions
    assert training.stored.final_digests() == uninterrupted
    assert training.flow_run(1).state_name == "Completed"
    assert len(training.stored.state.attempts) == 2


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


def test_killed_under_a_worker_the_flow_run_is_crashed_and_retry_resumes(
    training: Training, uninterrupted: list[str], prefect_worker: Path
) -> None:
    flow_run_id = run_deployment(training)
    training.stored.wait_for_versions(2)
    attempt = next(iter(training.stored.state.attempts.values()))
    assert attempt.flow_run_id == flow_run_id
    kill_tree(int(attempt.by["pid"]))
    wait_until(
        lambda: read_flow_run(training.server, flow_run_id).state_name == "Crashed", what="Crashed"
    )
    training.server.cli("flow-run", "retry", flow_run_id)
    wait_until(
        lambda: read_flow_run(training.server, flow_run_id).state_name == "Completed",
        240,
        f"Completed; worker log {prefect_worker}",
    )
    assert training.stored.final_digests() == uninterrupted
    assert [(a.flow_run_id, a.run_count) for a in training.stored.state.attempts.values()] == [
        (flow_run_id, 1),
        (flow_run_id, 2),
    ]
    assert training.steps_redone() <= INTERVAL + 1


def run_deployment(training: Training) -> str:
    """Deploy the flow by its module path to the worker's pool and start it; the flow run's id."""
    parameters = {
        "entrypoint": "traced:train_loop",
        "run": training.stored.run,
        "storage": str(training.project / "store"),
        "code_dir": str(training.project),
        "config": {**SMALL, "trace": str(training.trace)},
        "saving": {"every_steps": INTERVAL},
    }

    async def deploy() -> str:
        async with get_client() as client:
            flow_id = await client.create_flow_from_name("pawl-train")
            deployment_id = await client.create_deployment(
                flow_id=flow_id, name=f"ways-back-{time.time_ns()}", work_pool_name=POOL, entrypoint="flows.train.train",
                path=str(training.project), parameters=parameters, enforce_parameter_schema=False,
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(training.project)}}],
            )  # fmt: skip
            return str((await client.create_flow_run_from_deployment(deployment_id)).id)

    with temporary_settings({PREFECT_API_URL: training.server.api_url}):
        return asyncio.run(deploy())


def signal_tree(process: PawlProcess, number: int) -> None:
    root = psutil.Process(process.process.pid)
    for member in [root, *root.children(recursive=True)]:
        member.send_signal(number)


def kill_tree(pid: int) -> None:
    root = psutil.Process(pid)
    for member in [root, *root.children(recursive=True)]:
        member.send_signal(signal.SIGKILL)
