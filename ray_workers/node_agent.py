"""The node agent: one actor on every training node that moves staged bytes to the store. A shell over `AgentSaves`.

It makes the staging files, so that they outlive a worker; it maps a file only while it uploads, so that a restarted
agent takes up where its predecessor died. Ray restarts it in place; the driver tells it who coordinates, and starts it
anew where Ray gave it up.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from ray_workers.agent_saves import AgentSaves
from ray_workers.coordination import Coordination, Coordinator
from ray_workers.log_collecting import LineBox
from ray_workers.messages import DriverNews, LogLine, SaveId, StagedShard, VersionOutcome
from ray_workers.metrics import RunMetrics
from ray_workers.policies.hang import RankPulse
from ray_workers.pulse_board import PulseBoard
from ray_workers.rank_signs import BesideRanks
from ray_workers.ray_metrics import RayInstruments
from ray_workers.staging_files import StagingFolder
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.late_store import LateStore
from ray_workers.store.opening import StorageTarget
from ray_workers.uploader import Uploader, lower_priority

__all__ = ["AgentConfig", "NodeAgent", "agent_name"]


_WAITING = 256
"""Saves that are open at once: each waits here until all ranks have stored theirs, so one that finds no place would keep all
of them from becoming a version. More than the ranks of a node times their staging buffers; how many upload at once is
the uploader's own bound."""

_ABANDONED_S = 3600.0
"""So long a failed attempt's files wait for the one that comes after it, before another run's agent removes them."""


def agent_name(run_id: str, fence: int, node_id: str) -> str:
    return f"pawl-agent-{run_id[:16]}-{fence}-{node_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    target: StorageTarget
    run: str
    staging: StagingFolder
    upload_tries: int


@ray.remote(  # type: ignore[call-overload] # Ray's stubs lack concurrency_groups
    num_cpus=0,
    max_restarts=-1,
    max_task_retries=0,
    concurrency_groups={"io": _WAITING, "control": 2, "memory": 2},
)
class NodeAgent:
    def __init__(self, config: AgentConfig) -> None:
        lower_priority()  # before the store's client starts threads of its own
        self._staging = config.staging
        self._coordination = Coordination()
        # Not opened here: a store is away now and then, and Ray never restarts an actor that could not begin.
        store = LateStore(config.target)
        self._uploader = Uploader(store, config.run, tries=config.upload_tries)
        self._staging.remove_abandoned(_ABANDONED_S, epoch_seconds())
        self._lines = LineBox()
        self._saves = AgentSaves(
            self._uploader,
            self._coordination,
            RunMetrics(RayInstruments(), config.run),
            socket.gethostname(),
        )
        self._beside = BesideRanks()
        self._pulses = PulseBoard()

    @ray.method(concurrency_group="control")
    def arrive(self, rank: int, pid: int) -> None:
        """A rank begins to train beside this agent."""
        self._beside.arrive(rank, pid)

    @ray.method(concurrency_group="control")
    def leave(self, rank: int) -> None:
        """Its loop is over, one way or another."""
        self._beside.leave(rank)
        self._pulses.leave(rank)

    @ray.method(concurrency_group="control")
    def signs(self) -> dict[int, bool]:
        """Whether the loop of each rank beside it still runs."""
        return self._beside.signs()

    @ray.method(concurrency_group="control")
    def beat(self, pulse: RankPulse) -> bool:
        """Hear of a rank that trains; whether its stacks are wanted."""
        return self._pulses.beat(pulse)

    @ray.method(concurrency_group="control")
    def pulses(self) -> list[RankPulse]:
        return self._pulses.pulses()

    @ray.method(concurrency_group="control")
    def want_stacks(self) -> None:
        self._pulses.want_stacks()

    @ray.method(concurrency_group="control")
    def put_stacks(self, rank: int, text: str) -> None:
        self._pulses.put_stacks(rank, text)

    @ray.method(concurrency_group="control")
    def stacks(self) -> Mapping[int, str | None]:
        return self._pulses.stacks()

    @ray.method(concurrency_group="control")
    def rank_states(self) -> Mapping[int, str]:
        return self._pulses.states()

    @ray.method(concurrency_group="control")
    def kill_ranks(self, ranks: tuple[int, ...]) -> None:
        """End the processes of these ranks as far as they are here; Ray then ends the rest of the attempt."""
        self._pulses.kill(ranks)

    @ray.method(concurrency_group="control")
    def put_lines(self, lines: list[LogLine]) -> None:
        self._lines.put(lines)

    @ray.method(concurrency_group="control")
    def take_lines(self) -> list[LogLine]:
        """What the ranks of this node printed and logged since the last call."""
        return self._lines.take()

    @ray.method(concurrency_group="control")
    def attach(self, coordinator: Coordinator) -> None:
        """Serve this coordinator from now on; the driver calls it again and again, so a restarted agent learns too."""
        self._coordination.attach(coordinator)

    @ray.method(concurrency_group="control")
    def news(self) -> DriverNews:
        """What the driver said last."""
        return self._coordination.news()

    @ray.method(concurrency_group="memory")
    def allocate(self, rank: int, count: int, size: int) -> list[str]:
        """May take minutes for a large state, while everything else is still answered."""
        self._uploader.forget()  # what the rank had is removed
        return self._staging.allocate(rank, count=count, size=size)

    @ray.method(concurrency_group="control")
    def release(self, rank: int | None) -> None:
        self._uploader.forget()
        self._staging.release(rank)
        if rank is None:
            self._staging.remove_leftovers()

    @ray.method(concurrency_group="control")
    def decline(self, save: SaveId, reason: str) -> None:
        """This node has no shard of `save`. Returns at once."""
        self._saves.decline(save, reason)

    @ray.method(concurrency_group="io")
    def at_work(self) -> bool:
        """Whether saves still come to an end: by answering for itself, and whether the checkpoint actor answers."""
        return self._saves.at_work()

    @ray.method(concurrency_group="io")
    def save(self, staged: StagedShard) -> VersionOutcome:
        """Store a staged shard and answer with what became of its version. The buffer is free when this answers."""
        lower_priority()
        return self._saves.save(staged)
