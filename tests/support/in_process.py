"""One attempt in this process, without Ray: fence, resume choice, session, commit; for tests of everything between."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from ray_workers import session
from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.context import TrainingContext, set_context
from ray_workers.messages import ResumePoint
from ray_workers.opening_attempt import Applicant, open_attempt
from ray_workers.pipeline import InProcessPipeline
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.rank_content import RankContent
from ray_workers.resume import ResumeSpec, choose
from ray_workers.saver import Saver
from ray_workers.staging_files import StagingFolder
from ray_workers.store.attempts import end_attempt, read_run, this_process
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Manifest, Progress, VersionRef
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import load_manifest
from ray_workers.uploader import Uploader
from ray_workers.validation import SoundnessPolicy
from ray_workers.version_assembly import AttemptIdentity

Loop = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    fence: int
    point: ResumePoint | None
    state: RunState
    manager: CheckpointManager

    @property
    def resumed(self) -> ResumePoint:
        """The resume point of an attempt that must have had one."""
        assert self.point is not None
        return self.point


@dataclass(slots=True, kw_only=True)
class OneProcess:
    """Runs attempts of one run, each a call of `attempt`."""

    target: StorageTarget
    run: str
    staging: Path
    thresholds: SaveThresholds
    failure_budget: int = 3
    tries: int = 2
    full_every: int = 16
    hot_restore: bool = False
    wait_for_saves: bool = False
    """Let training stand still during each save, so that the versions are the same ones every time."""
    wrap_store: Callable[[ObjectStore], ObjectStore] = lambda store: store
    """Put around the store that shards and versions are written to; for faults."""
    started_as: Mapping[str, str] = field(default_factory=dict)

    def attempt(
        self,
        loop: Loop,
        config: dict[str, Any] | None = None,
        *,
        resume: str = "auto",
        flow_run_id: str | None = None,
    ) -> Finished:
        """Start, resume, train, end; an exception of the loop goes through after the attempt's end is recorded."""
        store = self.target.open(create=True).store
        applicant = Applicant(
            flow_run_id=flow_run_id or uuid.uuid4().hex,
            run_count=1,
            by=this_process(),
            takeover=True,
            still_running=lambda _: None,
        )
        log, fence = open_attempt(store, self.run, ResumeSpec.parse(resume), applicant)
        point = choose(store, log, fence, required="sound", policy=SoundnessPolicy()).point
        identity = AttemptIdentity(
            run=self.run,
            run_id=str(log.state.run_id),
            fence=fence,
            parent=_parent(point),
            config=config or {},
            by=this_process(),
        )
        writable = self.wrap_store(store)
        manager = CheckpointManager(writable, identity, failure_budget=self.failure_budget)
        staging = StagingFolder(folder=self.staging, run_id=identity.run_id, fence=fence)
        uploader = Uploader(writable, self.run, tries=self.tries, sleep=lambda _: None)
        pipeline = InProcessPipeline(manager, uploader, staging, fence)
        set_context(
            TrainingContext(
                storage=self.target,
                run=self.run,
                run_id=identity.run_id,
                fence=fence,
                rank=0,
                world_size=1,
                config=config or {},
                resume=point,
                thresholds=self.thresholds,
                buffers=2,
                pipeline=pipeline,
                started_as=self.started_as,
                full_every=self.full_every,
                staging=staging if self.hot_restore else None,
            )
        )
        outcome = "failed"
        try:
            with mock.patch.object(
                session, "Saver", PatientSaver if self.wait_for_saves else Saver
            ):
                loop(dict(config or {}))
            outcome = "completed"
        finally:
            set_context(None)
            pipeline.close(keep=self.hot_restore and outcome == "failed")
            end_attempt(RunLog(store, self.run, by=this_process()), fence, outcome)
        return Finished(fence=fence, point=point, state=read_run(store, self.run), manager=manager)

    def newest_manifest(self) -> Manifest:
        store = self.target.open().store
        return load_manifest(store, self.run, read_run(store, self.run).newest_first()[0])


class PatientSaver(Saver):
    """Training stands still until it is known what became of a save."""

    def stage(self, content: RankContent, progress: Progress) -> None:
        super().stage(content, progress)
        self._unheard = self.wait(60)


def _parent(point: ResumePoint | None) -> VersionRef | None:
    if point is None:
        return None
    return VersionRef(
        run=point.run if point.foreign else None,
        number=point.name.number,
        digest=point.name.manifest,
    )
