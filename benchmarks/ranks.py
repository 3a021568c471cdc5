"""One rank or several, each a process of this machine: what a benchmark has to know of the others."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.messages import SaveId, ShardReport, VersionOutcome

__all__ = ["ALONE", "Ranks", "SharedManager", "on_ranks"]


@dataclass(frozen=True, slots=True)
class Ranks:
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def together(self) -> None:
        """Return when all are here."""
        if self.world > 1:
            dist.barrier()

    def told(self, value: Any) -> Any:
        """Rank 0's."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def worst(self, values: Sequence[float], *, smallest: bool = False) -> tuple[float, ...]:
        """Of each value that of the rank that has the largest: what all of them together had to wait for."""
        if self.world == 1:
            return tuple(values)
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, op=dist.ReduceOp.MIN if smallest else dist.ReduceOp.MAX)
        return tuple(found.tolist())


ALONE = Ranks()


class SharedManager:
    """The coordinator of several ranks' saves, for a pipeline of each: all bring their reports, rank 0 commits, all are told.

    Used by one thread of each rank, always for the same saves in the same order, and through a group of its own.
    """

    def __init__(self, manager: CheckpointManager, ranks: Ranks) -> None:
        self._manager = manager
        self._ranks = ranks
        self._group: Any = dist.new_group(backend="gloo")

    @property
    def stop_reason(self) -> str | None:
        return self._manager.stop_reason

    def gather(self, report: ShardReport) -> VersionOutcome | None:
        reports: list[ShardReport | None] = [None] * self._ranks.world
        dist.all_gather_object(reports, report, group=self._group)
        told: list[VersionOutcome | None] = [None]
        if self._ranks.leads:
            told = [self._manager.gather(one) for one in reports if one is not None][-1:]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return told[0]

    def give_up(self, save: SaveId, reason: str) -> VersionOutcome:
        raise RuntimeError(f"{save} was given up: {reason}")


def on_ranks(world: int, work: Callable[..., Any], *given: Any) -> Any:
    """Call `work(ranks, *given)` on each of `world` ranks; what rank 0 answers. All draw the same random numbers."""
    if world == 1:
        return work(ALONE, *given)
    context = mp.get_context("spawn")
    answers: Any = context.SimpleQueue()
    port = _free_port()
    running: Any = mp.spawn(  # type: ignore[attr-defined, no-untyped-call] # torch has no stubs for it
        _one_rank, args=(world, port, answers, work, given), nprocs=world, join=False
    )
    found = _answer(running, answers)
    running.join()
    return found


def _answer(running: Any, answers: Any) -> Any:
    while answers.empty():
        if running.join(timeout=0.2) and answers.empty():  # a rank that raised raises here
            raise RuntimeError("The ranks ended without an answer.")
    return answers.get()


def _one_rank(
    rank: int, world: int, port: int, answers: Any, work: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    random.seed(world)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        found = work(Ranks(rank, world), *given)
        if rank == 0:
            answers.put(found)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
