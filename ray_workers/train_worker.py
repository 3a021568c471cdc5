"""What runs in each Ray Train worker: set the scene, then the user's loop."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.train

from ray_workers.agent_link import AgentLink
from ray_workers.context import TrainingContext, set_context
from ray_workers.entrypoints import load_entrypoint
from ray_workers.heart import Heart
from ray_workers.heartbeat import Heartbeat
from ray_workers.interval_controller import IntervalPlan
from ray_workers.messages import LogLine, ResumePoint
from ray_workers.node_agent import agent_name
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.rank_logs import RankLogs
from ray_workers.ray_cluster import NAMESPACE
from ray_workers.ray_pipeline import RayPipeline, coordinator_finder
from ray_workers.ray_reporting import RayAnnouncer
from ray_workers.staging_files import StagingFolder
from ray_workers.store.opening import StorageTarget

__all__ = ["WorkerJob", "run_worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    target: StorageTarget
    run: str
    run_id: str
    fence: int
    entrypoint: str
    config: Mapping[str, Any]
    resume: ResumePoint | None
    thresholds: SaveThresholds
    buffers: int
    interval: IntervalPlan | None
    log_lines_per_second: float
    watched: bool
    """The driver looks whether the ranks take steps."""
    on_changed_workers: str = "refuse"
    required: str = "sound"
    policy: SoundnessPolicy = field(default_factory=SoundnessPolicy)
    full_every: int = 16
    staging: StagingFolder | None = None
    launched_at: str | None = None
    started_as: Mapping[str, str] = field(default_factory=dict)


def run_worker(job: WorkerJob) -> None:
    """Run the loop of `job` in this worker, to its end."""
    logging.getLogger("pawl").setLevel(logging.INFO)
    here = ray.train.get_context()
    rank, world_size = here.get_world_rank(), here.get_world_size()
    node_id = ray.get_runtime_context().get_node_id()
    name = agent_name(job.run_id, job.fence, node_id)
    link = AgentLink(functools.partial(ray.get_actor, name, namespace=NAMESPACE))
    link.actor.arrive.remote(rank, os.getpid())
    heart = Heart()
    context = TrainingContext(
        storage=job.target,
        run=job.run,
        run_id=job.run_id,
        rank=rank,
        world_size=world_size,
        config=job.config,
        resume=job.resume,
        thresholds=job.thresholds,
        buffers=job.buffers,
        interval=job.interval,
        on_changed_workers=job.on_changed_workers,
        fence=job.fence,
        required=job.required,
        policy=job.policy,
        full_every=job.full_every,
        staging=job.staging,
        place=(here.get_local_rank(), here.get_local_world_size()),
        launched_at=job.launched_at,
        started_as=job.started_as,
        heart=heart,
        pipeline=RayPipeline(link, rank, coordinator_finder(job.run_id, job.fence)),
        announcer=RayAnnouncer(job.target.url, job.run, rank),
    )
    set_context(context)

    def send(lines: list[LogLine]) -> None:
        link.actor.put_lines.remote(lines)

    try:
        with (
            Heartbeat(heart, link, rank, told=job.watched),
            RankLogs(rank, send, per_second=job.log_lines_per_second),
        ):
            load_entrypoint(job.entrypoint)(dict(job.config))
    finally:
        link.actor.leave.remote(rank)
        set_context(None)
