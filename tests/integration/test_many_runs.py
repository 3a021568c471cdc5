"""Eight runs of several deployments at once, on one Ray cluster, one server and one store; and one name started twice."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.settings import PREFECT_API_URL, temporary_settings

from ray_workers.store.opening import StorageTarget
from ray_workers.store.versions import load_manifest
from tasks.artifact_keys import artifact_key
from tests.integration.conftest import PrefectServer
from tests.integration.harness import PREFECT, StoredRun, start_pawl, train_arguments, wait_until
from tests.support.ray_head import RayHead, clean_environment

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]

POOL = "pawl-many"
LONG_S = 1500
DEPLOYMENTS = {"alpha": 2, "beta": 3, "gamma": 3}
"""Name and how many may run at once; three runs of each of the first two, two of the last."""
RUNS = [
    ("alpha", 0),
    ("alpha", 1),
    ("alpha", 2),
    ("beta", 3),
    ("beta", 4),
    ("beta", 5),
    ("gamma", 6),
    ("gamma", 7),
]


@pytest.fixture(scope="module")
def ray_head() -> Iterator[RayHead]:
    with RayHead.running(cpus=8) as head:
        yield head


@pytest.fixture
def worker(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[None]:
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [PREFECT, "worker", "start", "--pool", POOL, "--limit", "8"],
            env=clean_environment({**prefect_server.env, "PREFECT_WORKER_QUERY_SECONDS": "2"}),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        yield
        process.kill()
        process.wait(20)


async def start_all(server: PrefectServer, folder: Path, address: str) -> list[UUID]:
    """Three deployments with their own limits, eight flow runs at once; the flow runs' ids, in the order of `RUNS`."""
    started = []
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        flow_id = await client.create_flow_from_name("pawl-train")
        ids = {}
        for name, limit in DEPLOYMENTS.items():
            ids[name] = await client.create_deployment(
                flow_id=flow_id, name=name, work_pool_name=POOL, entrypoint="flows.train.train",
                path=str(folder), enforce_parameter_schema=False,
                concurrency_limit=limit,
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
            )  # fmt: skip
        for name, seed in RUNS:
            run = await client.create_flow_run_from_deployment(
                ids[name], parameters=parameters(folder, address, name, seed)
            )
            started.append(run.id)
    return started


def parameters(folder: Path, address: str, name: str, seed: int) -> dict[str, Any]:
    return {
        "entrypoint": "ray_workers.loops.digits:train_loop",
        "run": f"{name}-{seed}",
        "storage": str(folder / "store"),
        "code_dir": str(folder),
        "config": {"epochs": 2, "batch_size": 64, "seed": seed, "step_delay": 0.2},
        "scaling": {"workers": 1, "ray_address": address},
        "saving": {"every_steps": 10},
    }


async def watch(ids: list[UUID], limits: dict[UUID, str]) -> tuple[dict[UUID, str], dict[str, int]]:
    """Until all have ended: their states, and the most of each deployment that ran at once."""
    most = dict.fromkeys(DEPLOYMENTS, 0)
    deadline = time.monotonic() + LONG_S
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids))
    async with get_client() as client:
        while time.monotonic() < deadline:
            runs = await client.read_flow_runs(flow_run_filter=wanted)
            states = {run.id: str(run.state_name) for run in runs}
            for name in most:
                at_work = sum(s == "Running" for i, s in states.items() if limits[i] == name)
                most[name] = max(most[name], at_work)
            if all(run.state is not None and run.state.is_final() for run in runs):
                return states, most
            await asyncio.sleep(1)
    raise AssertionError(f"not all ended within {LONG_S} s: {most}")


def lineage_artifacts(flow_run_id: UUID, run: str) -> int:
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]),
        key=ArtifactFilterKey(any_=[artifact_key("lineage", run)]),
    )
    with get_client(sync_client=True) as client:
        return len(client.read_artifacts(artifact_filter=wanted))


def test_eight_runs_at_once_do_not_know_of_each_other(
    ray_head: RayHead, prefect_server: PrefectServer, tmp_path: Path, worker: None
) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        ids = asyncio.run(start_all(prefect_server, tmp_path, ray_head.address))
        names = {flow_run: name for flow_run, (name, _) in zip(ids, RUNS, strict=True)}
        states, most = asyncio.run(watch(ids, names))
        assert set(states.values()) == {"Completed"}, (
            states,
            (tmp_path / "worker.log").read_text(),
        )
        assert all(most[name] <= limit for name, limit in DEPLOYMENTS.items())
        assert sum(most.values()) > max(DEPLOYMENTS.values())  # they did run beside each other
        target = StorageTarget(str(tmp_path / "store"))
        for flow_run, (name, seed) in zip(ids, RUNS, strict=True):
            stored = StoredRun(target=target, run=f"{name}-{seed}")
            state = stored.state
            assert {a.flow_run_id for a in state.attempts.values()} == {str(flow_run)}
            store = target.open().store
            for version in state.versions.values():
                assert load_manifest(store, stored.run, version).config["seed"] == seed
            assert stored.final_digests()
            assert lineage_artifacts(flow_run, stored.run) == 1


def test_one_name_started_twice_at_once_trains_once(
    ray_head: RayHead, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    arguments = train_arguments(
        "twin", "--storage", "store", "--ray-address", ray_head.address, "--workers", "1", "--retries", "0",
        config={"epochs": 2, "batch_size": 64, "step_delay": 0.5},
    )  # fmt: skip
    env = {**prefect_server.env, "RAY_AUTH_MODE": "disabled"}
    both = [start_pawl(tmp_path, *arguments, env=env) for _ in range(2)]
    codes = [process.wait(600) for process in both]
    assert sorted(codes) == [0, 1], [process.output for process in both]
    refused = both[codes.index(1)].output
    attempts = StoredRun(target=StorageTarget(str(tmp_path / "store")), run="twin").state.attempts
    (only,) = attempts.values()
    assert only.flow_run_id in refused
    assert "takeover" in refused
    assert only.outcome == "completed"
    wait_until(lambda: all(p.process.poll() is not None for p in both), 10)
