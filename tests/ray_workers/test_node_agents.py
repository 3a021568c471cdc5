"""Every living node has an agent: one that Ray has given up is started anew, under the name that its workers look for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from ray_workers import node_agents
from ray_workers.coordination import Coordinator
from ray_workers.node_agent import AgentConfig
from ray_workers.node_agents import NodeAgents
from ray_workers.staging_files import StagingFolder
from ray_workers.store.opening import StorageTarget
from tests.support.fake_actor import PENDING, FakeActor, without_ray

A, B = "a" * 56, "b" * 56
LINK = Coordinator(actor=None, fence=2)


class Cluster:
    """Two nodes; what is started on them is `FakeActor`s, the next ones in `coming`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.coming: list[FakeActor] = []
        self.started: list[str] = []
        self.nodes = [
            {"NodeID": n, "Alive": True, "NodeManagerHostname": f"host-{n[0]}"} for n in (A, B)
        ]
        without_ray(monkeypatch)
        monkeypatch.setattr(ray, "nodes", lambda: self.nodes)
        monkeypatch.setattr(node_agents, "NodeAgent", self)
        staging = StagingFolder(folder=Path("/dev/shm"), run_id="0" * 32, fence=2)  # noqa: S108
        config = AgentConfig(
            target=StorageTarget("memory://x"), run="run", staging=staging, upload_tries=1
        )
        self.agents = NodeAgents("0" * 32, config, lambda: self.now)

    def options(self, *, name: str, get_if_exists: bool, **_: Any) -> Cluster:
        assert get_if_exists
        self.started.append(name)
        return self

    def remote(self, _: AgentConfig) -> FakeActor:
        return self.coming.pop(0) if self.coming else FakeActor()

    def look(self, after_s: float = 0.5) -> None:
        self.now += after_s
        self.agents.watch()
        self.agents.attach(LINK)


def test_an_agent_that_ray_gave_up_is_started_anew_under_its_name(monkeypatch):
    cluster = Cluster(monkeypatch)
    dead = FakeActor(attach=[None, ActorDiedError()])
    cluster.coming = [dead]
    for _ in range(20):
        cluster.look()
    assert len(cluster.started) == 3
    assert cluster.started[2] == cluster.started[0]
    assert cluster.agents.by_node[A] is not dead


@pytest.mark.parametrize("answer", [None, PENDING, ActorUnavailableError("restarting", None)])
def test_one_that_lives_or_comes_back_by_itself_is_left_alone(monkeypatch, answer):
    cluster = Cluster(monkeypatch)
    cluster.coming = [FakeActor(attach=[answer])]
    for _ in range(40):
        cluster.look()
    assert len(cluster.started) == 2


def test_one_that_never_can_begin_costs_no_process_every_moment(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.coming = [FakeActor(attach=[ActorDiedError()]) for _ in range(100)]
    cluster.nodes.pop()
    for _ in range(40):  # 20 seconds
        cluster.look()
    assert 3 <= len(cluster.started) <= 5


def test_the_agent_of_a_node_that_went_is_forgotten(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.look()
    cluster.nodes[1]["Alive"] = False
    cluster.look(60)
    assert set(cluster.agents.by_node) == {A}
    assert len(cluster.started) == 2
