"""All node agents of an attempt, as its driver sees them: one on every node, told who coordinates, let go at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_workers.actor_errors import is_gone
from ray_workers.coordination import Coordinator
from ray_workers.node_agent import AgentConfig, NodeAgent, agent_name

__all__ = ["NodeAgents"]

_RELEASE_S = 2.0
"""An agent that stands still leaves its files; the next attempt's agent removes them."""
_START_AGAIN_S = 5.0
"""Between two agents of one node: one that cannot begin must not cost the machine a process every moment."""


class NodeAgents:
    """Args as for the agents: which run's they are, and what each is started with; and a clock that only rises."""

    def __init__(
        self, run_id: str, config: AgentConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_id = run_id
        self._config = config
        self._clock = clock
        self._handles: dict[str, Any] = {}
        self._started: dict[str, float] = {}
        self._told: dict[str, Any] = {}
        """The last call of `attach` to each: its answer says whether the agent is gone for good."""

    @property
    def by_node(self) -> Mapping[str, Any]:
        return self._handles

    def watch(self) -> Mapping[str, str]:
        """Start an agent on each node that joined, and where Ray gave one up; forget those whose node is gone.

        Ray restarts an agent whose process died, but none that could not begin. Whoever looks for the new one finds it
        under the same name.

        Returns:
            Host names of the nodes that live, by node.
        """
        names: dict[str, str] = {}
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            node_id = node["NodeID"]
            if not node["Alive"]:
                self._handles.pop(node_id, None)
                self._told.pop(node_id, None)
                continue
            names[node_id] = str(node["NodeManagerHostname"])
            if node_id not in self._handles or self._is_lost(node_id):
                self._told.pop(node_id, None)
                self._started[node_id] = self._clock()
                self._handles[node_id] = self._start(node_id)
        return names

    def attach(self, link: Coordinator) -> None:
        """Tell all of them who coordinates; said again and again, so that a restarted one learns too. From any thread."""
        for node_id, agent in list(self._handles.items()):
            self._told[node_id] = agent.attach.remote(link)

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

    def _is_lost(self, node_id: str) -> bool:
        if self._clock() - self._started[node_id] < _START_AGAIN_S:
            return False
        call = self._told.get(node_id)
        if call is None or not ray.wait([call], timeout=0)[0]:
            return False
        try:
            ray.get(call)
        except RayError as error:
            return is_gone(error)
        return False

    def _start(self, node_id: str) -> Any:
        """An agent that Ray restarts after all is found by its name, and not started twice."""
        name = agent_name(self._run_id, self._config.staging.fence, node_id)
        place = NodeAffinitySchedulingStrategy(node_id, soft=False)
        options = NodeAgent.options(  # type: ignore[attr-defined]
            name=name, scheduling_strategy=place, get_if_exists=True
        )
        return options.remote(self._config)
