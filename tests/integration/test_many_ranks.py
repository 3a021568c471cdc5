"""More ranks than calls that Ray lets into an actor by itself: the real node agent and checkpoint actor, without training."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from ray_workers.checkpoint_actor import CheckpointActor
from ray_workers.coordination import Coordinator
from ray_workers.messages import RankState, ShardReport, StagedPart, StagedShard
from ray_workers.node_agent import AgentConfig, NodeAgent
from ray_workers.staging_files import StagingFolder
from ray_workers.store.attempts import create_run, read_run, start_attempt
from ray_workers.store.checksum import digest_of
from ray_workers.store.keys import new_shard_key
from ray_workers.store.manifest import Progress
from ray_workers.store.opening import StorageTarget
from ray_workers.store.shards import ShardEntry, build_header
from ray_workers.version_assembly import AttemptIdentity

pytestmark = [pytest.mark.ray, pytest.mark.long]

_PATIENCE_S = 400
"""Below the time after which the checkpoint actor gives a version up."""
CONTENT = build_header([])


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def attempt(cluster: None, tmp_path: Path) -> tuple[StorageTarget, AttemptIdentity]:
    target = StorageTarget(str(tmp_path / "store"))
    log = create_run(target.open(create=True).store, "run", by={})
    fence = start_attempt(log, flow_run_id=uuid.uuid4().hex, run_count=1)
    run_id = str(log.state.run_id)
    identity = AttemptIdentity(run="run", run_id=run_id, fence=fence, parent=None, config={}, by={})
    return target, identity


def _staged(rank: int, ranks: int, path: str) -> StagedShard:
    return StagedShard(
        rank=rank, world_size=ranks, progress=Progress(step=1, epoch=0, finished=False), payload="state",
        path=path, parts=(StagedPart(begin=0, bytes=len(CONTENT), layout={}),),
        state=RankState(rank_plain=None), staged_s=0.0,
    )  # fmt: skip


def test_a_node_has_more_ranks_than_upload_at_once(attempt, tmp_path):
    ranks = 9
    target, identity = attempt
    actor = CheckpointActor.remote(target, identity, 0)  # type: ignore[attr-defined]
    staging = StagingFolder(folder=tmp_path, run_id=identity.run_id, fence=identity.fence)
    agent = NodeAgent.remote(AgentConfig(target=target, run="run", staging=staging, upload_tries=1))  # type: ignore[attr-defined]
    ray.get(agent.attach.remote(Coordinator(actor=actor, fence=identity.fence)))
    saves = []
    for rank in range(ranks):
        path = tmp_path / f"staged-{rank}"
        path.write_bytes(CONTENT)
        saves.append(agent.save.remote(_staged(rank, ranks, str(path))))
    outcomes = ray.get(saves, timeout=_PATIENCE_S)
    assert {outcome.number for outcome in outcomes} == {1}
    assert list(read_run(target.open().store, "run").versions) == [1]


def test_a_version_has_more_ranks_than_calls_that_ray_admits(attempt):
    ranks = 1_200
    target, identity = attempt
    actor = CheckpointActor.remote(target, identity, 0)  # type: ignore[attr-defined]
    reports = [
        ShardReport(
            staged=_staged(rank, ranks, "/nowhere"),
            entries=(
                ShardEntry(
                    rank=rank, key=new_shard_key("run", identity.fence), bytes=len(CONTENT), digest=digest_of(CONTENT)
                ),
            ),
            reused=frozenset(), fence=identity.fence, upload_s=0.0,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    waiting = [actor.gather.remote(report) for report in reports[:-1]]
    assert ray.get(actor.drain_events.remote(), timeout=_PATIENCE_S) == ([], None)
    outcome = ray.get(actor.gather.remote(reports[-1]), timeout=_PATIENCE_S)
    assert outcome.number == 1
    assert {found.number for found in ray.get(waiting, timeout=_PATIENCE_S)} == {1}
