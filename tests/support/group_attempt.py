"""Whole attempts on several real ranks without Ray: real sessions, real store, a real gloo group; for `RankPool`."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist

from ray_workers import session
from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.context import TrainingContext, set_context
from ray_workers.messages import (
    RESIZE,
    DriverNews,
    ResumePoint,
    SaveId,
    ShardReport,
    StagedShard,
    StopRequest,
    VersionOutcome,
)
from ray_workers.opening_attempt import Applicant, open_attempt
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.resume import ResumeSpec, choose
from ray_workers.staging_files import StagingFolder
from ray_workers.store.attempts import end_attempt, this_process
from ray_workers.store.errors import PawlError
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import VersionRef
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from ray_workers.uploader import Uploader
from ray_workers.validation import SoundnessPolicy
from ray_workers.version_assembly import AttemptIdentity
from tests.support.in_process import PatientSaver

__all__ = ["GroupAttempt", "train_in_group"]


class Stopped(BaseException):
    """Stands for SIGKILL of every rank at the same step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAttempt:
    """What every rank needs to know of an attempt; picklable."""

    url: str
    run: str
    staging: str
    loop: str
    """Module of a loop with `train_loop` and `step`."""
    config: Mapping[str, Any]
    every_steps: int = 2
    stop_after: int | None = None
    """Every rank dies after so many steps of this attempt."""
    on_changed_workers: str = "refuse"
    resized_after: int | None = None
    """After so many steps of this attempt the driver asks for its end, to go on with another number of workers."""


def train_in_group(attempt: GroupAttempt) -> tuple[list[float], str | None]:
    """Run the attempt on this rank: the losses of its steps, and the error that ended it."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    with _opened(attempt, world) as (store, log, fence, point):
        return _train(attempt, world, store, (log, fence, point))


@contextmanager
def _opened(
    attempt: GroupAttempt, world: int
) -> Iterator[tuple[ObjectStore, RunLog, int, ResumePoint | None]]:
    """Rank 0 opens the attempt and chooses; the others are told."""
    store = StorageTarget(attempt.url).open(create=True).store
    told: list[Any] = [None, None]
    lead = world == 1 or dist.get_rank() == 0
    if lead:
        applicant = Applicant(
            flow_run_id=uuid.uuid4().hex, run_count=1, by=this_process(), takeover=True, still_running=lambda _: None,
        )  # fmt: skip
        log, fence = open_attempt(store, attempt.run, ResumeSpec.parse("auto"), applicant)
        point = choose(store, log, fence, required="sound", policy=SoundnessPolicy()).point
        told = [fence, point]
    if world > 1:
        dist.broadcast_object_list(told, src=0)
    log = RunLog(store, attempt.run, by=this_process())
    yield store, log, told[0], told[1]
    if lead:
        end_attempt(log, told[0], "completed")


def _train(
    attempt: GroupAttempt,
    world: int,
    store: ObjectStore,
    opened: tuple[RunLog, int, ResumePoint | None],
) -> tuple[list[float], str | None]:
    log, fence, point = opened
    rank = dist.get_rank() if world > 1 else 0
    run_id = str(log.state.run_id)
    staging = StagingFolder(folder=Path(attempt.staging), run_id=run_id, fence=fence)
    identity = AttemptIdentity(
        run=attempt.run, run_id=run_id, fence=fence, parent=_parent(point), config=attempt.config, by=this_process(),
    )  # fmt: skip
    losses: list[float] = []
    pipeline = _GroupPipeline(
        CheckpointManager(store, identity, failure_budget=0),
        Uploader(store, attempt.run, tries=1),
        staging,
        fence,
        lambda: attempt.resized_after is not None and len(losses) >= attempt.resized_after,
    )
    set_context(
        TrainingContext(
            storage=StorageTarget(attempt.url), run=attempt.run, run_id=run_id, fence=fence, rank=rank, world_size=world,
            config=attempt.config, resume=point, thresholds=SaveThresholds(every_steps=attempt.every_steps), buffers=2,
            pipeline=pipeline, on_changed_workers=attempt.on_changed_workers,
        )
    )  # fmt: skip
    module = importlib.import_module(attempt.loop)
    try:
        step = _watched(module.step, losses, attempt.stop_after)
        with (
            mock.patch.object(session, "Saver", PatientSaver),
            mock.patch.object(module, "step", step),
        ):
            module.train_loop(dict(attempt.config))
    except Stopped:
        return losses, "stopped"
    except PawlError as error:
        return losses, error.message
    finally:
        set_context(None)
        pipeline.close()
    return losses, None


def _watched(
    step: Callable[..., Any], losses: list[float], stop_after: int | None
) -> Callable[..., Any]:
    def watched(*parts: Any) -> Any:
        if len(losses) == stop_after:
            raise Stopped
        answer = step(*parts)
        losses.append(answer[0] if isinstance(answer, tuple) else answer)
        return answer

    return watched


class _GroupPipeline:
    """Every rank stores its shard, rank 0 commits, all are told; on the saver's thread, so with a group of its own."""

    def __init__(
        self,
        manager: CheckpointManager,
        uploader: Uploader,
        staging: StagingFolder,
        fence: int,
        resized: Callable[[], bool],
    ) -> None:
        self._manager, self._uploader = manager, uploader
        self._staging, self._fence = staging, fence
        self._resized = resized
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def allocate(self, rank: int, *, count: int, size: int) -> list[str]:
        return self._staging.allocate(rank, count=count, size=size)

    def submit(self, staged: StagedShard) -> _Answered:
        report = self._uploader.upload(staged, self._fence)
        if staged.world_size == 1:
            return _Answered(self._manager.gather(report))
        reports: list[ShardReport | None] = [None] * staged.world_size
        dist.all_gather_object(reports, report, group=self._group)
        told: list[VersionOutcome | None] = [None]
        if staged.rank == 0:
            told = [self._manager.gather(item) for item in reports if item is not None][-1:]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return _Answered(told[0])

    def decline(self, save: SaveId, rank: int, reason: str) -> None:
        raise AssertionError(f"{save} was declined by rank {rank}: {reason}")

    def at_work(self) -> bool:
        return True

    def stop_request(self) -> StopRequest | None:
        reason = self._manager.stop_reason
        if reason is None and self._resized():
            return StopRequest(reason="interrupted", cause=RESIZE, grace_s=60)
        return None if reason is None else StopRequest(reason=reason)

    def news(self) -> DriverNews:
        return DriverNews(stop=self.stop_request())

    def close(self) -> None:
        self._staging.release()


@dataclass(frozen=True)
class _Answered:
    outcome: VersionOutcome | None

    def poll(self) -> VersionOutcome | None:
        return self.outcome

    def wait(self, timeout_s: float) -> VersionOutcome | None:
        del timeout_s
        return self.outcome


def _parent(point: ResumePoint | None) -> VersionRef | None:
    if point is None:
        return None
    return VersionRef(
        run=point.run if point.foreign else None,
        number=point.name.number,
        digest=point.name.manifest,
    )
