"""Restoring on fresh Ray Train workers, for a drill: cluster, trainer, and what came back."""

from __future__ import annotations

import functools
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train import TrainingFailedError as RayTrainingFailedError
from ray.train.torch import TorchTrainer

from ray_workers.actor_errors import in_short
from ray_workers.config import Scaling
from ray_workers.drill_notes import DrillNotes
from ray_workers.drill_plan import Shape
from ray_workers.drill_worker import DrillBoard, DrillWork, run_drill_worker
from ray_workers.ray_cluster import ray_cluster
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import PawlError, TrainingFailedError
from ray_workers.worker_errors import causes_of, culprit, last_line

__all__ = ["Restore", "restore_on_workers"]

_GROUP_STARTS = 3
"""Tries to find room for the workers; each may take Ray's own minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """What is restored on fresh workers."""

    work: DrillWork
    shape: Shape
    scaling: Scaling
    code_dir: Path


def restore_on_workers(wanted: Restore) -> tuple[DrillNotes, float]:
    """Restore and take one step on fresh Ray Train workers; rank 0's notes, and the seconds until the cluster stood.

    Raises:
        DamageError, StateMismatchError, InvalidInputError …: what a worker raised, if it is one of ours.
        TrainingFailedError: the loop raised, a worker died, or no step was done in time.
    """
    began = time.monotonic()
    with (
        ray_cluster(wanted.scaling, wanted.code_dir),
        tempfile.TemporaryDirectory(prefix="pawl-ray-") as scratch,
    ):
        cluster_s = time.monotonic() - began
        board = DrillBoard.remote()  # type: ignore[attr-defined]
        work = replace(wanted.work, launched_at=utc_now())
        try:
            _trainer(replace(wanted, work=work), board, scratch).fit()
        except (RayTrainingFailedError, RayActorError, OutOfMemoryError) as error:
            raise _as_ours(wanted, board, error) from error
        notes, _ = _read(board)
        return notes[0], cluster_s


def _trainer(wanted: Restore, board: Any, scratch: str) -> TorchTrainer:
    scaling = wanted.scaling
    resources = {"CPU": scaling.cpus_per_worker}
    if scaling.gpus_per_worker:
        resources["GPU"] = scaling.gpus_per_worker
    return TorchTrainer(
        functools.partial(run_drill_worker, wanted.work, board),
        scaling_config=ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=f"drill-{wanted.work.run}-{wanted.work.point.name.number}",
            storage_path=scratch,
            failure_config=FailureConfig(
                max_failures=0,
                controller_failure_limit=_GROUP_STARTS,  # type: ignore[call-arg] # the class of Ray Train V2
            ),
        ),
    )


def _as_ours(wanted: Restore, board: Any, error: Exception) -> PawlError:
    causes = causes_of(error)
    ours = [cause for cause in causes.values() if isinstance(cause, PawlError)]
    if ours:
        return ours[0]
    with suppress(TrainingFailedError):
        _, late = _read(board)
        if late:
            return TrainingFailedError(
                f"Rank {late[0]} did not come to the end of a step within {wanted.work.timeout_s:.0f} s.",
                rank=late[0],
            )
    if not causes:
        return TrainingFailedError(f"The drill's workers failed: {last_line(error)}")
    rank, cause = culprit(causes)
    return TrainingFailedError(
        f"The loop failed on rank {rank}: {type(cause).__name__}: {last_line(cause)}", rank=rank
    )


def _read(board: Any) -> tuple[dict[int, DrillNotes], tuple[int, ...]]:
    """What the workers noted, by rank, and the ranks that came too late. Raises `TrainingFailedError` when it is lost."""
    try:
        notes, late = ray.get(board.read.remote())
    except RayError as error:
        raise TrainingFailedError(
            f"What the drill's workers noted is lost: {in_short(error)}"
        ) from error
    return notes, late
