"""Rank 0 decides, every rank hears the same at the same step: one tiny broadcast on a process group of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist

from ray_workers.store.errors import InternalError

__all__ = ["BroadcastChannel", "Decision", "DecisionChannel", "LoneRank", "open_channel"]

_STOPS = (None, "fence_lost", "budget_spent", "interrupted", "stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    next_step: int
    """The step after which all ranks agree again."""
    save: bool = False
    stop: str | None = None
    grace_s: float = 0.0
    """Seconds that an interrupted attempt waits for its last version."""
    announce: int | None = None
    """A version that was committed since the last agreement."""


class DecisionChannel(Protocol):
    def agree(self, decision: Decision | None) -> Decision:
        """Called by all ranks at the same step; rank 0 gives the decision, the others None. All get rank 0's."""

    def any_failed(self, problem: str | None) -> str | None:
        """Called by all ranks; what went wrong on the lowest rank that brings a problem; None if none does."""

    def tell(self, text: str) -> str:
        """Called by all ranks; rank 0's text, on every one."""


class LoneRank:
    """A world of one."""

    def agree(self, decision: Decision | None) -> Decision:
        if decision is None:
            raise InternalError("Rank 0 must bring a decision.")
        return decision

    def any_failed(self, problem: str | None) -> str | None:
        return problem

    def tell(self, text: str) -> str:
        return text


class BroadcastChannel:
    """A gloo group beside the training group, so that nothing of ours is ordered against training's collectives.

    All ranks construct it together, on the thread that trains.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")

    def agree(self, decision: Decision | None) -> Decision:
        message = torch.zeros(5, dtype=torch.int64)
        if decision is not None:
            stop = _STOPS.index(decision.stop) if decision.stop in _STOPS else len(_STOPS) - 1
            fields = [decision.next_step, int(decision.save), stop, decision.announce or 0]
            fields.append(int(1000 * decision.grace_s))
            message = torch.tensor(fields, dtype=torch.int64)
        dist.broadcast(message, src=0, group=self._group)
        next_step, save, stop, announce, grace_ms = (int(value) for value in message)
        return Decision(
            next_step=next_step,
            save=bool(save),
            stop=_STOPS[stop],
            announce=announce or None,
            grace_s=grace_ms / 1000,
        )

    def any_failed(self, problem: str | None) -> str | None:
        world = dist.get_world_size(self._group)
        lowest = torch.tensor(world if problem is None else dist.get_rank(), dtype=torch.int64)
        dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=self._group)
        return None if int(lowest) == world else self._from(int(lowest), problem or "")

    def tell(self, text: str) -> str:
        return self._from(0, text)

    def _from(self, source: int, text: str) -> str:
        data = text.encode() if dist.get_rank() == source else b""
        size = torch.tensor(len(data), dtype=torch.int64)
        dist.broadcast(size, src=source, group=self._group)
        message = torch.zeros(int(size), dtype=torch.uint8)
        if data:
            message = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        dist.broadcast(message, src=source, group=self._group)
        return bytes(message.tolist()).decode()


def open_channel(world_size: int) -> DecisionChannel:
    """The channel of this process; a collective call when there are several ranks."""
    if world_size == 1:
        return LoneRank()
    if not dist.is_initialized():
        raise InternalError(
            f"{world_size} workers train without a torch process group: use Ray's TorchTrainer, as Pawl's trainer does."
        )
    return BroadcastChannel()
