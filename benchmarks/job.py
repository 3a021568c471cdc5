"""A training of a given size with Pawl around it, in this process: what the figures are taken on."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from benchmarks.ranks import ALONE, Ranks, SharedManager
from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.config import Saving
from ray_workers.context import TrainingContext, set_context
from ray_workers.messages import ResumePoint
from ray_workers.pipeline import InProcessPipeline
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.restoring import read_manifest
from ray_workers.session import CheckpointSession
from ray_workers.staging_files import NOTE_SUFFIX, StagingFolder
from ray_workers.store import keys
from ray_workers.store.attempts import read_run, start_attempt, this_process
from ray_workers.store.bodies import ResumeChosen, RunCreated, VersionName
from ray_workers.store.log import RunLog
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from ray_workers.training_state import TrainingParts
from ray_workers.uploader import Uploader
from ray_workers.version_assembly import AttemptIdentity

__all__ = ["Job", "Made", "compute", "make_state", "open_job", "work"]

_WIDTH = 1024
_LAYER_BYTES = 3 * 4 * _WIDTH * _WIDTH
"""Of one square layer: its weight and two moments of AdamW."""
_PATIENCE_S = 600.0
_SIDE = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    parts: TrainingParts
    tensors: list[torch.Tensor]
    """All large ones of the state, of this rank."""
    nbytes: int
    """Of this rank."""


def make_state(mib: int, ranks: Ranks = ALONE) -> Made:
    """A model and its AdamW, about `mib` MiB together, of random values; of several ranks each holds its shard (FSDP2)."""
    torch.manual_seed(mib)
    layers = max(1, round(mib * 2**20 / _LAYER_BYTES))
    model = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(layers)))
    if ranks.world > 1:
        fully_shard(model, mesh=init_device_mesh("cpu", (ranks.world,)))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    tensors = [_here(parameter.detach()) for parameter in model.parameters()]
    for state in optimizer.state.values():
        tensors += [_here(state[name]).uniform_() for name in ("exp_avg", "exp_avg_sq")]
    parts = TrainingParts(model=model, optimizer=optimizer)
    return Made(parts=parts, tensors=tensors, nbytes=sum(t.nbytes for t in tensors))


def _here(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def work(products: int) -> None:
    """One thread of so many matrix products: training that takes longer when somebody takes its processor time."""
    a = torch.ones(_SIDE, _SIDE)
    for _ in range(products):
        torch.mm(a, a)


def compute(seconds: float) -> int:
    """One thread of matrix products for so long; how many there were."""
    a = torch.ones(_SIDE, _SIDE)
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        torch.mm(a, a)
        done += 1
    return done


class Job:
    """A session that saves whenever it is told to, and a step that takes no time."""

    def __init__(
        self,
        session: CheckpointSession,
        store: ObjectStore,
        run: str,
        staging: StagingFolder,
        ranks: Ranks,
    ) -> None:
        self._session = session
        self._store = store
        self._run = run
        self._staging = staging
        self._ranks = ranks
        still = nn.Parameter(torch.zeros(1))
        still.grad = torch.zeros(1)
        self._step = torch.optim.SGD([still], lr=0.1)

    def save(self) -> float:
        """Seconds that `advance` took; it began a save."""
        began = time.perf_counter()
        self._session.advance()
        return time.perf_counter() - began

    def step(self) -> float:
        """Seconds that an optimizer's step took, which waits for the copy."""
        began = time.perf_counter()
        self._step.step()
        return time.perf_counter() - began

    def wait(self) -> None:
        """Return when the save has become a version. Raises `RuntimeError` when it has not."""
        outcomes = self._session._saver.wait(_PATIENCE_S)  # noqa: SLF001 - a session has no reason to wait
        if not outcomes or outcomes[-1].number is None:
            raise RuntimeError(f"The save did not become a version: {outcomes}")

    def tidy(self) -> None:
        """Delete the shards of all versions but the newest: a disk, or a server's memory, holds only so many."""
        if self._ranks.leads:
            kept = {entry.key for entry in read_manifest(self._store, self.newest()).shards}
            for info in list(self._store.list(keys.shards_prefix(self._run))):
                if info.key not in kept:
                    self._store.delete(info.key)
        self._ranks.together()

    def left_behind(self, folder: Path) -> StagingFolder:
        """What a worker that died would leave in this node's memory: its staging files in `folder`, held by nobody."""
        for path in self._staging.noted():
            for name in (path.name, f"{path.name}{NOTE_SUFFIX}"):
                shutil.copyfile(path.parent / name, folder / name)
        return replace(self._staging, folder=folder)

    def newest(self) -> ResumePoint:
        version = read_run(self._store, self._run).newest_first()[0]
        return ResumePoint(
            run=self._run,
            name=VersionName(number=version.number, manifest=version.manifest),
            manifest_key=keys.manifest_key(self._run, version.fence, version.manifest),
            step=version.step,
            rung="committed",
            foreign=False,
        )


def _begin(store: ObjectStore) -> tuple[str, str, int]:
    """A run and its first attempt: name, id, fence."""
    run = f"bench-{uuid.uuid4().hex[:12]}"
    log = RunLog(store, run, by=this_process())
    log.append(lambda _: RunCreated(run_id=uuid.uuid4().hex))
    fence = start_attempt(log, flow_run_id=uuid.uuid4().hex, run_count=1, incarnation=0)
    log.append(lambda _: ResumeChosen(fence=fence, version=None, required="committed"))
    return run, str(log.state.run_id), fence


@contextmanager
def open_job(
    target: StorageTarget, made: Made, staging: Path, ranks: Ranks = ALONE
) -> Iterator[Job]:
    """A fresh run in `target` that trains `made`, with as many staging buffers as a user gets who sets nothing."""
    store = target.open(create=True).store
    run, run_id, fence = ranks.told(_begin(store) if ranks.leads else None)
    identity = AttemptIdentity(
        run=run, run_id=run_id, fence=fence, parent=None, config={}, by=this_process()
    )
    manager: Any = CheckpointManager(store, identity, failure_budget=3)
    folder = StagingFolder(folder=staging, run_id=run_id, fence=fence)
    if ranks.world > 1:
        manager = SharedManager(manager, ranks)
    pipeline = InProcessPipeline(manager, Uploader(store, run, tries=2), folder, fence)
    context: dict[str, Any] = {
        "storage": target, "run": run, "run_id": run_id, "fence": fence, "rank": ranks.rank, "world_size": ranks.world,
        "config": {}, "resume": None, "thresholds": SaveThresholds(every_steps=1), "buffers": Saving().buffers,
        "pipeline": pipeline,
        "full_every": 1,  # everything is sent each time, as the others do, although nothing changes here
    }  # fmt: skip
    set_context(TrainingContext(**context))
    session = CheckpointSession.open(model=made.parts.model, optimizer=made.parts.optimizer)
    try:
        yield Job(session, store, run, folder, ranks)
        ranks.together()
    finally:
        set_context(None)
        session.__exit__(KeyboardInterrupt, None, None)  # no final save
        pipeline.close()
