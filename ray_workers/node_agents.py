"""All node agents of an attempt, as its driver sees them: one on every node, told who coordinates, let go at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_workers.coordination import Coordinator
from ray_workers.node_agent import AgentConfig, NodeAgent, agent_name

__all__ = ["NodeAgents"]

_RELEASE_S = 2.0
"""An agent that stands still leaves its files; the next attempt's agent removes them."""


class NodeAgents:
    """Args as for the agents: which run's they are, and what each is started with."""

    def __init__(self, run_id: str, config: AgentConfig) -> None:
        self._run_id = run_id
        self._config = config
        self._handles: dict[str, Any] = {}

    @property
    def by_node(self) -> Mapping[str, Any]:
        return self._handles

    def watch(self) -> Mapping[str, str]:
        """Start an agent on each node that joined; forget those whose node is gone. Host names of the others, by node."""
        names: dict[str, str] = {}
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            node_id = node["NodeID"]
            if not node["Alive"]:
                self._handles.pop(node_id, None)
                continue
            names[node_id] = str(node["NodeManagerHostname"])
            if node_id not in self._handles:
                self._handles[node_id] = self._start(node_id)
        return names

    def attach(self, link: Coordinator) -> None:
        """Tell all of them who coordinates; said again and again, so that a restarted one learns too. From any thread."""
        for agent in list(self._handles.values()):
            agent.attach.remote(link)

    def let_go(self, *, keep_staged: bool) -> None:
        """End them; `keep_staged`: what they hold in memory is left to the next attempt."""
        agents = list(self._handles.values())
        if agents and not keep_staged:
            calls = [agent.release.remote(None) for agent in agents]
            ray.wait(
                calls, num_returns=len(calls), timeout=_RELEASE_S
            )  # a kill would overtake them
        for agent in agents:
            ray.kill(agent)

    def _start(self, node_id: str) -> Any:
        name = agent_name(self._run_id, self._config.staging.fence, node_id)
        place = NodeAffinitySchedulingStrategy(node_id, soft=False)
        return NodeAgent.options(name=name, scheduling_strategy=place).remote(self._config)  # type: ignore[attr-defined]
