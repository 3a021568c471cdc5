"""Every failure of the table in docs/reliability.md, made, survived and measured: `make ways-back`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from ray_workers.store.opening import StorageTarget
from tests.integration.harness import StoredRun, wait_until
from tests.integration.measured import LONG_S, POOL, Measured, Server, kill_tree
from tests.support.ceph import CephCluster
from tests.support.ray_head import RayHead
from tests.support.s3_server import S3Server

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("measured"))
    made.start()
    made.add_automations()
    yield made
    made.kill()


@pytest.fixture
def run(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Measured]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    target = StorageTarget(str(tmp_path / "store"))
    made = Measured(tmp_path, server, StoredRun(target=target, run="run"))
    yield made
    made.end()


@pytest.fixture
def head() -> Iterator[RayHead]:
    with RayHead.running(cpus=2) as made:
        yield made


def test_exception(run: Measured) -> None:
    process = run.start(retries=1, raise_at=18)
    assert process.wait(LONG_S) == 0, process.output
    at = float(run.trace.with_suffix(".raised").read_text())
    run.record(1, "the loop raises", "the flow retries in its process", at)


def test_train_worker(run: Measured) -> None:
    process = run.start(retries=1)
    run.wait_for_versions(3)
    at = run.fail(lambda: process.kill_actor("RayTrainWorker"))
    assert process.wait(LONG_S) == 0, process.output
    run.record(2, "`kill -9` of a training worker", "the flow retries in its process", at)


def test_flow(run: Measured) -> None:
    flow_run_id = start_deployed(run)
    run.server.start_worker()
    run.wait_for_versions(3)
    at = run.fail(lambda: kill_tree(flow_pid(run)))
    wait_until(lambda: state_of(run, flow_run_id) == "Completed", LONG_S, "Completed")
    run.record(
        3,
        "`kill -9` of the flow",
        "its worker reports the crash, an automation starts it again",
        at,
    )


def test_flow_of_a_ray_job(run: Measured, head: RayHead) -> None:
    process = run.start("--ray-address", head.jobs_address)
    run.wait_for_versions(3)
    at = run.fail(lambda: os.kill(process.process.pid, signal.SIGKILL))
    process.process.wait(20)
    again = run.start("--ray-address", head.jobs_address)
    assert again.wait(LONG_S) == 0, again.output
    assert len(run.stored.state.attempts) == 1
    run.record(
        4, "`kill -9` of the flow of a Ray job", "training goes on, the next try follows it", at
    )


def test_worker_and_flow(run: Measured) -> None:
    flow_run_id = start_deployed(run)
    run.server.start_worker()
    run.wait_for_versions(3)
    worker = run.server.workers[-1]
    at = run.fail(lambda: kill_tree(worker.pid))
    for each in run.server.workers:
        each.wait(20) if each is worker else None
    run.server.start_worker()
    wait_until(lambda: state_of(run, flow_run_id) == "Completed", LONG_S, "Completed")
    assert len(run.stored.state.attempts) == 2, "the run was over before its worker was killed"
    run.record(
        5, "`kill -9` of the Prefect worker with its flow",
        "no heartbeat for 90 s, so crashed; an automation starts it again", at,
    )  # fmt: skip


def test_prefect_server(run: Measured) -> None:
    process = run.start()
    run.wait_for_versions(3)

    def restart() -> None:
        assert run.server.server is not None
        kill_tree(run.server.server.pid)
        run.server.server.wait(20)
        time.sleep(10)
        run.server.start()

    at = run.fail(restart)
    assert process.wait(LONG_S) == 0, process.output
    run.record(
        6, "Prefect's server killed and started again", "nothing to do, training goes on", at
    )


def test_ray_head(run: Measured, head: RayHead) -> None:
    process = run.start("--ray-address", head.jobs_address, retries=3)
    run.wait_for_versions(3)

    def restart() -> None:
        head.kill()
        head.start()

    at = run.fail(restart)
    assert process.wait(LONG_S) == 0, process.output
    run.record(
        7,
        "`kill -9` of the Ray head with all its node, started again",
        "the flow retries as a new job",
        at,
    )


@pytest.mark.s3
def test_s3(run: Measured, ceph: CephCluster, s3_server: S3Server) -> None:
    keys = s3_server.credentials()
    run.stored = StoredRun(
        target=StorageTarget(f"s3://{s3_server.new_bucket()}/pawl", keys), run="run"
    )
    run.env = s3_server.environment()
    process = run.start(step_delay=4.0)
    run.wait_for_versions(3)

    def outage() -> None:
        ceph.kill()
        time.sleep(120)
        ceph.start()

    at = run.fail(outage)
    assert process.wait(LONG_S) == 0, process.output
    assert [a.outcome for a in run.stored.state.attempts.values()] == ["completed"]
    run.record(
        9, "the S3 server down for two minutes", "saves wait or are dropped, training goes on", at
    )


def test_cancel(run: Measured) -> None:
    flow_run_id = start_deployed(run)
    run.server.start_worker()
    run.wait_for_versions(3)
    with run.server.client(), get_client(sync_client=True) as client:
        from prefect.states import Cancelling  # noqa: PLC0415

        at = run.fail(lambda: client.set_flow_run_state(UUID(flow_run_id), Cancelling()))
    wait_until(lambda: state_of(run, flow_run_id) == "Cancelled", LONG_S, "Cancelled")
    again = run.start()
    assert again.wait(LONG_S) == 0, again.output
    run.record(10, "cancelled, then started again by hand", "the last save is made first", at)


def test_deadline(run: Measured) -> None:
    process = run.start("--time-limit", "150", step_delay=4.0)
    assert process.wait(LONG_S) != 0
    at = run.steps()[-1][1]
    again = run.start()
    assert again.wait(LONG_S) == 0, again.output
    run.record(
        11,
        "the deadline of the attempt, then started again by hand",
        "the last save is made first",
        at,
    )


def start_deployed(run: Measured) -> str:
    """The flow as a deployment with Pawl's tag, started; the flow run's id."""
    parameters: dict[str, Any] = {
        "entrypoint": "traced:train_loop",
        "run": run.stored.run,
        "storage": run.stored.target.url,
        "code_dir": str(run.folder),
        "config": run.config(),
        "saving": {"every_steps": 5},
    }
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(run.folder)}}]

    async def deploy() -> str:
        async with get_client() as client:
            with contextlib.suppress(ObjectAlreadyExists):
                await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
            flow_id = await client.create_flow_from_name("pawl-train")
            deployment_id = await client.create_deployment(
                flow_id=flow_id, name=f"measured-{time.time_ns()}", work_pool_name=POOL,
                entrypoint="flows.train.train", path=str(run.folder), parameters=parameters,
                enforce_parameter_schema=False, pull_steps=pull, tags=["pawl"],
            )  # fmt: skip
            return str((await client.create_flow_run_from_deployment(deployment_id)).id)

    with run.server.client():
        return asyncio.run(deploy())


def state_of(run: Measured, flow_run_id: str) -> str | None:
    with run.server.client(), get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(flow_run_id)).state_name


def flow_pid(run: Measured) -> int:
    return int(next(iter(run.stored.state.attempts.values())).by["pid"])
