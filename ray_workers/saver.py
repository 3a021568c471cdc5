"""One worker's saves: plan once, copy into a staging buffer, hand over, learn later what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ray_workers.messages import RankState, StagedFile, StagedShard, VersionOutcome
from ray_workers.pipeline import PendingSave, SavePipeline
from ray_workers.shard_io import ShardPlan, plan_shard, write_shard
from ray_workers.staging import StagingRing
from ray_workers.store.layout import TensorLayout
from ray_workers.store.manifest import Curve, Progress

__all__ = ["RankContent", "Saver"]

_BUFFER_PATIENCE_S = 30.0
_HEADROOM_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RankContent:
    """What this rank contributes to a version."""

    tensors: Mapping[str, torch.Tensor]
    rank_plain: Any = None
    plain: Any = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, Curve] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[StagedFile, ...] = ()
    payload: str = "state"


@dataclass(slots=True)
class _Flight:
    buffer: str
    pending: PendingSave


class Saver:
    """Args as in `context.TrainingContext`; not shared between threads."""

    def __init__(self, pipeline: SavePipeline, *, rank: int, world_size: int, buffers: int) -> None:
        self._pipeline = pipeline
        self._rank = rank
        self._world_size = world_size
        self._buffers = buffers
        self._ring: StagingRing | None = None
        self._plan: ShardPlan | None = None
        self._flights: list[_Flight] = []
        self._unheard: list[VersionOutcome] = []

    @property
    def in_flight(self) -> bool:
        return bool(self._flights)

    def collect(self) -> list[VersionOutcome]:
        """Outcomes that arrived since the last call, oldest first. Never blocks."""
        return self._gather(lambda flight: flight.pending.poll())

    def wait(self, timeout_s: float) -> list[VersionOutcome]:
        """As `collect`, but waits up to `timeout_s` seconds for each open save."""
        return self._gather(lambda flight: flight.pending.wait(timeout_s))

    def stage(self, content: RankContent, progress: Progress) -> None:
        """Copy the live state into a buffer and hand it over. Training may change the state when this returns.

        With no buffer free the version is dropped, never waited for.
        """
        started = time.monotonic()
        plan = self._planned(content.tensors)
        buffer = self._free_buffer(plan.total)
        if buffer is None:
            self._pipeline.decline(
                progress.step, self._rank, "all its staging buffers are still being read"
            )
            return
        write_shard(plan, content.tensors, buffer.memory)
        staged = StagedShard(
            rank=self._rank,
            world_size=self._world_size,
            progress=progress,
            payload=content.payload,
            path=buffer.path,
            bytes=plan.total,
            state=_rank_state(content, plan.layout() if content.payload == "state" else {}),
            staged_s=time.monotonic() - started,
        )
        self._flights.append(_Flight(buffer.path, self._pipeline.submit(staged)))

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
        self._pipeline.close()

    def _planned(self, tensors: Mapping[str, torch.Tensor]) -> ShardPlan:
        if self._plan is None or not self._plan.fits(tensors):
            self._plan = plan_shard(tensors, rank=self._rank)
        return self._plan

    def _free_buffer(self, size: int) -> Any:
        if self._ring is None or self._ring.size < size:
            self._replace_ring(size)
        return self._ring.take() if self._ring is not None else None

    def _replace_ring(self, size: int) -> None:
        """The state grew (an optimizer's state appears with its first step): larger buffers, once the old are free."""
        self._unheard = self.wait(_BUFFER_PATIENCE_S)
        if self._ring is not None:
            if not self._ring.idle:
                return
            self._ring.close()
        self._ring = StagingRing(
            self._pipeline.allocate(self._rank, count=self._buffers, size=_with_headroom(size))
        )

    def _gather(self, ask: Callable[[_Flight], VersionOutcome | None]) -> list[VersionOutcome]:
        outcomes, open_flights = self._unheard, []
        self._unheard = []
        for flight in self._flights:
            outcome = ask(flight)
            if outcome is None:
                open_flights.append(flight)
                continue
            outcomes.append(outcome)
            if self._ring is not None:
                self._ring.give_back(flight.buffer)
        self._flights = open_flights
        return outcomes


def _with_headroom(size: int) -> int:
    """Room to grow: the metric series gets longer with every step, and a ring is costly to replace."""
    return size + max(size // 16, _HEADROOM_BYTES)


def _rank_state(content: RankContent, layout: Mapping[str, TensorLayout]) -> RankState:
    return RankState(
        layout=layout,
        rank_plain=content.rank_plain,
        plain=content.plain,
        metrics=content.metrics,
        curve=content.curve,
        environment=content.environment,
        files=content.files,
    )
