"""What runs in each Ray Train worker of a restore drill: the user's loop, ended after its first step, storing nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import ray
import ray.train

from ray_workers.context import TrainingContext, set_context
from ray_workers.drill_notes import DrillEnded, DrillNotes
from ray_workers.entrypoints import TrainLoop, load_entrypoint
from ray_workers.environment import changes
from ray_workers.messages import DriverNews, ResumePoint, SaveId, StagedShard, StopRequest
from ray_workers.pipeline import PendingSave
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.store.errors import InternalError, TrainingFailedError
from ray_workers.store.opening import StorageTarget

__all__ = ["DrillBoard", "DrillWork", "NothingIsStored", "run_drill_worker", "take_one_step"]

_TELL_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillWork:
    target: StorageTarget
    run: str
    run_id: str
    point: ResumePoint
    entrypoint: str
    config: Mapping[str, Any]
    environment: Mapping[str, str]
    """Of the version."""
    launched_at: str
    timeout_s: float


class NothingIsStored:
    """The save pipeline of a drill: the loop is told to stop as soon as it asks, and hands nothing over."""

    def allocate(self, rank: int, *, count: int, size: int) -> list[str]:
        raise InternalError(
            f"A drill saves nothing; rank {rank} wants {count} buffers of {size} bytes."
        )

    def submit(self, staged: StagedShard) -> PendingSave:
        raise InternalError(f"A drill saves nothing; rank {staged.rank} wants to.")

    def decline(self, save: SaveId, rank: int, reason: str) -> None:
        del save, rank, reason

    def at_work(self) -> bool:
        return False

    def stop_request(self) -> StopRequest | None:
        return StopRequest(reason="stopped")

    def news(self) -> DriverNews:
        return DriverNews(stop=self.stop_request())

    def close(self) -> None:
        pass


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class DrillBoard:
    """Where the workers leave what they saw, so that it is there even if one of them dies afterwards."""

    def __init__(self) -> None:
        self._notes: dict[int, DrillNotes] = {}
        self._late: set[int] = set()

    def put(self, rank: int, notes: DrillNotes) -> None:
        self._notes[rank] = notes

    def put_late(self, rank: int) -> None:
        self._late.add(rank)

    def read(self) -> tuple[dict[int, DrillNotes], tuple[int, ...]]:
        """Notes by rank, and the ranks that did not come to the end of a step in time."""
        return dict(self._notes), tuple(sorted(self._late))


def run_drill_worker(work: DrillWork, board: Any) -> None:
    """Restore and take one step in this worker; leaves its notes on `board`."""
    here = ray.train.get_context()
    rank = here.get_world_rank()
    with _TimeLimit(work.timeout_s, rank, board):
        notes = take_one_step(
            work, load_entrypoint(work.entrypoint), rank=rank, world_size=here.get_world_size()
        )
    ray.get(board.put.remote(rank, notes), timeout=_TELL_S)


def take_one_step(work: DrillWork, loop: TrainLoop, *, rank: int, world_size: int) -> DrillNotes:
    """Run the loop in this process until its first step after the restore is done.

    Raises:
        TrainingFailedError: it ended without opening a session.
        DamageError, ObjectNotFoundError: the version's bytes do not hold.
        StateMismatchError, or whatever the loop raises.
    """
    set_context(
        TrainingContext(
            storage=work.target,
            run=work.run,
            run_id=work.run_id,
            fence=0,  # none: it was never taken
            rank=rank,
            world_size=world_size,
            config=work.config,
            resume=work.point,
            thresholds=SaveThresholds(),
            buffers=1,
            pipeline=NothingIsStored(),
            launched_at=work.launched_at,
            drill=True,
        )
    )
    try:
        loop(dict(work.config))
    except DrillEnded as ended:
        # Compared after the loop, which may set the number of threads itself.
        found = changes(work.environment)
        told = tuple(f"{name} {old} → {new}" for name, (old, new) in found.items())
        return replace(ended.notes, changes=told)
    finally:
        set_context(None)
    raise TrainingFailedError(
        f"The loop {work.entrypoint!r} ended on rank {rank} without a CheckpointSession: there is nothing to drill."
    )


class _TimeLimit:
    """Ends this process, from another thread, if the block takes longer: a loop that hangs answers to nothing else."""

    def __init__(self, seconds: float, rank: int, board: Any) -> None:
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._rank, self._board = rank, board

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        try:
            ray.get(self._board.put_late.remote(self._rank), timeout=_TELL_S)
        finally:
            os._exit(1)
