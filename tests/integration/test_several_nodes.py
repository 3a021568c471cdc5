"""Four Ray nodes, each in a network namespace of its own; one is cut off in the middle of a save, and joins again."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ray_workers.ray_jobs import RayJobs
from ray_workers.store.attempts import start_incarnation
from ray_workers.store.errors import FenceLostError, RuleRefusedError
from ray_workers.store.log import RunLog
from ray_workers.store.opening import StorageTarget
from tests.integration.conftest import PrefectServer
from tests.integration.harness import SMALL, StoredRun, wait_until
from tests.integration.measured import STEPS_OF_SMALL, Measured, Server
from tests.support.net_nodes import NetNodes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]
LONG_S = 400
RANKS = 2


@pytest.fixture
def nodes() -> Iterator[NetNodes]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.fail("network namespaces need root and iproute2 (Debian: apt-get install iproute2)")
    with NetNodes.running(3) as made:
        yield made


def test_a_node_cut_off_in_the_middle_of_a_save_commits_nothing_more_and_the_run_goes_on_elsewhere(
    nodes: NetNodes,
    prefect_server: PrefectServer,
    tmp_path: Path,
    uninterrupted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert RayJobs(nodes.jobs_address).status("none") is None
    target = StorageTarget(str(tmp_path / "store"))
    stored = StoredRun(target=target, run="run")
    port = int(prefect_server.api_url.rpartition(":")[2].removesuffix("/api"))
    run = Measured(tmp_path, Server(prefect_server.home, port), stored)
    process = run.start(
        "--ray-address", nodes.jobs_address, retries=3, epochs=SMALL["epochs"], step_delay=1.0
    )
    stored.wait_for_versions(2, LONG_S)
    at_work = [n for n in range(1, 4) if nodes.actors(n, "RayTrainWorker")]
    assert len(at_work) == RANKS  # one a node
    lost = at_work[1]
    agent = wait_until(lambda: nodes.actors(lost, "NodeAgent"), what="an agent")[0]

    shards = tmp_path / "store" / "runs" / "run" / "shards"
    old_fence = max(stored.state.attempts)
    stop_at_rest(agent, stored)  # its rank's shard of the next version stays half way
    whole = RANKS * stored.committed()
    wait_until(lambda: stored.stored_shards() > whole, LONG_S, "the other rank's shard")
    taken = len(run.steps())
    wait_until(lambda: len(run.steps()) > taken + 2, LONG_S, "both ranks, past that save")
    at = run.fail(lambda: nodes.cut(lost))
    wait_until(lambda: max(stored.state.attempts) > old_fence, LONG_S, "the next attempt")
    committed = len(stored.state.versions)
    stored.wait_for_versions(committed + 1, LONG_S)

    old = shards / f"{old_fence:020d}"
    theirs = len(list(old.iterdir()))
    agent.send_signal(signal.SIGCONT)  # a zombie: cut off from its head, not from the store
    wait_until(
        lambda: len(list(old.iterdir())) > theirs, LONG_S, f"the zombie's late shard; {agent}"
    )
    nodes.join(lost)
    assert process.wait(900) == 0, process.output
    assert stored.final_digests() == uninterrupted
    state = stored.state
    newer = min(fence for fence in state.attempts if fence > old_fence)
    late = [v for v in state.versions.values() if v.slot > newer]
    assert late
    assert all(v.fence >= newer for v in late)
    log = RunLog(target.open().store, "run", by={}, patience_s=20)
    with pytest.raises((FenceLostError, RuleRefusedError)):
        start_incarnation(log, old_fence, 1)
    run.record(
        8, "a node cut off in the middle of a save, joined again later",
        "the flow retries as a new job on the other nodes", at, last=STEPS_OF_SMALL,
    )  # fmt: skip


def stop_at_rest(agent: psutil.Process, stored: StoredRun) -> None:
    """SIGSTOP while every shard that is stored belongs to a version: this agent has not stored its own of the next one."""

    def stopped() -> bool:
        agent.send_signal(signal.SIGSTOP)
        if stored.stored_shards() == RANKS * stored.committed():
            return True
        agent.send_signal(signal.SIGCONT)
        return False

    wait_until(stopped, LONG_S, "a moment between two saves")
