"""The trainer on a real Ray cluster of two raylets, without Prefect."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from ray_workers.config import Saving, Scaling, Validation
from ray_workers.messages import PawlEvent
from ray_workers.opening_attempt import Applicant, open_attempt
from ray_workers.policies.failure_words import read_failure
from ray_workers.ray_cluster import NAMESPACE
from ray_workers.resume import ResumeSpec, choose
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.errors import InvalidInputError, TrainingFailedError
from ray_workers.store.opening import StorageTarget
from ray_workers.trainer import train
from ray_workers.training_job import TrainingJob
from ray_workers.validation import SoundnessPolicy

pytestmark = [pytest.mark.ray, pytest.mark.long]

WHERE = """
import logging

import ray.train

from ray_workers.loops import digits


def train_loop(config):
    print("hello from rank", ray.train.get_context().get_world_rank())
    logging.getLogger("mine").warning("careful")
    digits.train_loop(config)


def raises(config):
    raise ValueError("planted in the loop")
"""


@pytest.fixture(scope="module")
def two_raylets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster with one CPU on each of two nodes, this process connected to it; yields a project folder."""
    project = tmp_path_factory.mktemp("project")
    (project / "where.py").write_text(WHERE)
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)
    ray.init(
        address=cluster.address,
        namespace=NAMESPACE,
        runtime_env={"env_vars": {"PYTHONPATH": str(project)}},
    )
    try:
        yield project
    finally:
        ray.shutdown()
        cluster.shutdown()


def run_attempt(
    project: Path,
    folder: Path,
    function: str,
    config: dict[str, Any] | None = None,
    told: list[PawlEvent] | None = None,
) -> tuple[StorageTarget, list[PawlEvent]]:
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    target = StorageTarget(str(folder / "store"))
    store = target.open(create=True).store
    by = this_process()
    applicant = Applicant(
        flow_run_id=function, run_count=1, by=by, takeover=True, still_running=lambda _: None
    )
    log, fence = open_attempt(store, "run", ResumeSpec.parse("auto"), applicant)
    point = choose(store, log, fence, required="sound", policy=SoundnessPolicy()).point
    events: list[PawlEvent] = [] if told is None else told
    job = TrainingJob(
        target=target,
        run="run",
        run_id=str(log.state.run_id),
        fence=fence,
        flow_run_id=function,
        run_count=1,
        by=by,
        entrypoint=f"where:{function}",
        config=config or {},
        code_dir=project,
        resume=point,
        scaling=Scaling(workers=2),
        saving=Saving(every_epochs=1),
        validation=Validation(),
    )
    try:
        train(job, on_event=events.append)
    finally:
        leftovers = list(Path("/dev/shm").glob(f"pawl-{str(log.state.run_id)[:16]}-*"))  # noqa: S108
        assert not leftovers
    return target, events


def test_two_raylets_each_with_its_agent_make_one_version(
    two_raylets: Path, tmp_path: Path
) -> None:
    target, events = run_attempt(two_raylets, tmp_path, "train_loop", {"epochs": 2})
    state = read_run(target.open().store, "run")
    assert [v.rung for v in state.newest_first()] == ["sound", "sound"]
    assert [e.details["number"] for e in events if e.kind == "committed"] == [1, 2]
    assert {e.kind for e in events} == {"committed", "verdict", "log"}
    said = {(e.details["rank"], e.details["level"], e.message) for e in events if e.kind == "log"}
    for rank in (0, 1):
        assert (rank, logging.INFO, f"[rank {rank}] hello from rank {rank}") in said
        assert (rank, logging.WARNING, f"[rank {rank}] careful") in said


def test_what_the_loop_raises_names_rank_and_error(two_raylets: Path, tmp_path: Path) -> None:
    told: list[PawlEvent] = []
    with pytest.raises(
        TrainingFailedError, match=r"rank \d .*: ValueError: planted in the loop"
    ) as met:
        run_attempt(two_raylets, tmp_path, "raises", told=told)
    failure = read_failure(str(met.value))
    assert failure is not None
    assert failure.node == socket.gethostname()
    assert (
        failure.settled_s is not None
    )  # when it was noticed may be unknown: Ray can tell before our signs are missed
    errors = [e.message for e in told if e.details.get("level") == logging.ERROR]
    assert any("ValueError: planted in the loop" in message for message in errors)


def test_an_error_of_ours_comes_back_as_itself(two_raylets: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="epoch"):
        run_attempt(two_raylets, tmp_path, "train_loop", {"epoch": 2})
