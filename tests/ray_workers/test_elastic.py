"""Two workers become three when a node joins, and two again when one is killed or drained: on real raylets, without Prefect."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from ray_workers.config import Saving, Scaling, Validation
from ray_workers.explaining import interruptions
from ray_workers.messages import PawlEvent
from ray_workers.opening_attempt import Applicant, open_attempt
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.ray_cluster import NAMESPACE
from ray_workers.report_builder import build_report
from ray_workers.resume import ResumeSpec, choose
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import AttemptState, RunState
from ray_workers.trainer import train
from ray_workers.training_job import TrainingJob

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

BOUND = 1e-5
"""As in test_changed_workers: only the order of float32 sums differs (docs/guarantees.md)."""
EPOCHS, EVERY_STEPS = 40, 7
PATIENCE_S = 500.0
LOOP = '''
"""Writes down the samples and the loss of each of its steps; slow until a file says that it may run free."""
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.sampling import GlobalBatches
from ray_workers.session import CheckpointSession


def build(rank, world):
    torch.set_num_threads(1)
    torch.manual_seed(5)
    samples = torch.randn(100, 6)
    data = torch.utils.data.TensorDataset(torch.arange(100), samples, samples.sin().sum(dim=1, keepdim=True))
    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1))
    batches = GlobalBatches(len(data), global_batch=12, rank=rank, world_size=world, seed=1)
    return model, StatefulDataLoader(data, batch_sampler=batches), batches


def step(model, optimizer, batch):
    _, inputs, wanted = batch
    optimizer.zero_grad()
    loss = (model(inputs) - wanted).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def train_loop(config):
    rank, world = dist.get_rank(), dist.get_world_size()
    folder = Path(config["folder"])
    model, loader, _ = build(rank, world)
    model = DistributedDataParallel(model, find_unused_parameters=world > 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with (
        CheckpointSession.open(model=model, optimizer=optimizer, loader=loader) as session,
        (folder / f"{time.time_ns()}-{world}-{rank}.trace").open("a", buffering=1) as trace,
    ):
        for batch in session.batches(epochs=config["epochs"]):
            loss = step(model, optimizer, batch)
            trace.write(f"{session.step + 1} {loss!r} {','.join(map(str, batch[0].tolist()))}\\n")
            session.advance(loss=loss)
            if not (folder / "free").exists():
                time.sleep(0.5)
'''


@dataclass
class Grown:
    """A cluster with one CPU on each of two nodes, this process connected to it, and a project folder."""

    cluster: Cluster
    project: Path
    loop: ModuleType
    nodes: list[Any] = field(default_factory=list)

    def join(self) -> None:
        self.nodes.append(
            self.cluster.add_node(wait=False, num_cpus=1, object_store_memory=100_000_000)
        )

    def kill(self) -> None:
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def drain(self) -> None:
        # As `ray drain-node` does.
        client: Any = ray._raylet.GcsClient(address=self.cluster.address)  # type: ignore[attr-defined]
        reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]
        deadline = int((epoch_seconds() + 300) * 1000)
        accepted, why = client.drain_node(self.nodes[-1].node_id, reason, "test", deadline)
        assert accepted, why


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grown]:
    project = tmp_path_factory.mktemp("project")
    (project / "elastic_loop.py").write_text(LOOP)
    sys.path.insert(0, str(project))
    # A node joins on a thread, where no handler of signals can be set.
    cluster = Cluster(shutdown_at_exit=False)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)
    ray.init(
        address=cluster.address,
        namespace=NAMESPACE,
        runtime_env={"env_vars": {"PYTHONPATH": str(project)}},
    )
    try:
        yield Grown(cluster, project, importlib.import_module("elastic_loop"))
    finally:
        sys.path.remove(str(project))
        ray.shutdown()
        cluster.shutdown()


@dataclass
class Told:
    """What training tells, for a thread that waits for some of it."""

    events: list[PawlEvent] = field(default_factory=list)
    over: bool = False
    """Training ended."""
    _news: threading.Condition = field(default_factory=threading.Condition)

    def hear(self, event: PawlEvent) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def end(self) -> None:
        with self._news:
            self.over = True
            self._news.notify_all()

    def wait_until_over(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self.over)

    def wait_for(self, *kinds: str) -> None:
        """Events of these kinds, in this order, the first of them counted from the beginning."""

        def there() -> bool:
            left = list(kinds)
            for event in self.events:
                if left and event.kind == left[0]:
                    left.pop(0)
            return not left

        with self._news:
            self._news.wait_for(lambda: self.over or there(), PATIENCE_S)
            assert there(), f"no {kinds} in {[e.message for e in self.events]}"


@dataclass(frozen=True)
class Step:
    samples: tuple[int, ...]
    loss: float


def whole(loop: ModuleType) -> dict[int, Step]:
    """Every step of the same training by one process that nothing interrupts, without Pawl."""
    model, loader, batches = loop.build(0, 1)
    optimizer = loop.torch.optim.AdamW(model.parameters(), lr=0.01)
    steps: dict[int, Step] = {}
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        for batch in loader:
            ids = tuple(sorted(batch[0].tolist()))
            steps[len(steps) + 1] = Step(ids, loop.step(model, optimizer, batch))
    return steps


def traced(folder: Path) -> list[tuple[int, dict[int, Step]]]:
    """The groups of workers in the order in which they began: how many, and each step that all of them took."""
    files = sorted(folder.glob("*.trace"))
    groups: list[list[dict[int, Step]]] = []
    worlds: list[int] = []
    for path in files:
        _, world, _ = path.stem.split("-")
        if not groups or len(groups[-1]) == worlds[-1]:
            groups.append([])
            worlds.append(int(world))
        assert int(world) == worlds[-1]
        groups[-1].append(_rank_steps(path))
    return [(world, _over_ranks(ranks)) for world, ranks in zip(worlds, groups, strict=True)]


def _rank_steps(path: Path) -> dict[int, Step]:
    lines = [
        line.split() for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
    ]
    return {
        int(step): Step(tuple(map(int, ids.split(","))), float(loss)) for step, loss, ids in lines
    }


def _over_ranks(ranks: list[dict[int, Step]]) -> dict[int, Step]:
    """Ranks hold parts of equal size, so the loss of a global batch is their mean."""
    shared = set.intersection(*(set(steps) for steps in ranks))
    return {
        at: Step(
            tuple(sorted(i for steps in ranks for i in steps[at].samples)),
            sum(steps[at].loss for steps in ranks) / len(ranks),
        )
        for at in sorted(shared)
    }


def train_between(
    grown: Grown, folder: Path, leaves: Callable[[], None]
) -> tuple[RunState, StorageTarget, Told]:
    """Train while a node joins, and then leaves in the given way."""
    target = StorageTarget(str(folder / "store"))
    store = target.open(create=True).store
    told = Told()
    problems: list[BaseException] = []

    def direct() -> None:
        try:
            told.wait_for("committed")
            grown.join()
            told.wait_for("committed", "resized", "committed")
            leaves()
            told.wait_for("committed", "resized", "committed", "resized", "committed")
        except BaseException as error:  # noqa: BLE001 - raised below, on the test's own thread
            problems.append(error)
        (folder / "free").touch()
        told.wait_until_over()  # a raylet dies with the thread that started it

    director = threading.Thread(target=direct)
    director.start()
    by = this_process()
    applicant = Applicant(
        flow_run_id="flow", run_count=1, by=by, takeover=False, still_running=lambda _: None
    )
    log, fence = open_attempt(store, "run", ResumeSpec.parse("auto"), applicant)
    point = choose(store, log, fence, required="sound", policy=SoundnessPolicy()).point
    job = TrainingJob(
        target=target, run="run", run_id=str(log.state.run_id), fence=fence, flow_run_id="flow", run_count=1, by=by,
        entrypoint="elastic_loop:train_loop", config={"folder": str(folder), "epochs": EPOCHS},
        code_dir=grown.project, resume=point,
        scaling=Scaling(workers=2, max_workers=4, on_changed_workers="reshard", grow_after_seconds=2),
        saving=Saving(every_steps=EVERY_STEPS, interval="fixed"), validation=Validation(),
    )  # fmt: skip
    try:
        train(job, on_event=told.hear)
    finally:
        told.end()
        director.join()
    assert not problems, problems
    return read_run(store, "run"), target, told


def newest_of(state: RunState, attempt: AttemptState) -> int:
    return max(v.step for v in state.versions.values() if v.fence == attempt.fence)


@pytest.mark.parametrize("how", ["killed", "drained"])
def test_two_workers_become_three_and_two_again_and_take_the_same_global_batches(
    grown: Grown, tmp_path: Path, how: str
) -> None:
    leaves = grown.kill if how == "killed" else grown.drain
    state, target, told = train_between(grown, tmp_path, leaves)
    groups = traced(tmp_path)
    assert [world for world, _ in groups] == [2, 3, 2], [e.message for e in told.events]
    first, second, third = (steps for _, steps in groups)
    attempts = sorted(state.attempts.values(), key=lambda a: a.fence)
    assert [a.outcome for a in attempts] == [
        "interrupted",
        "failed" if how == "killed" else "interrupted",
        None,
    ]

    # Joined: saved at the very last step, which no threshold asked for; nothing is done twice.
    assert newest_of(state, attempts[0]) == max(first)
    assert min(second) == max(first) + 1
    # Left: at most what came after the newest version is done again; announced, nothing.
    assert min(third) == newest_of(state, attempts[1]) + 1
    lost = max(second) - newest_of(state, attempts[1])
    assert lost == 0 if how == "drained" else lost <= 2 * EVERY_STEPS

    expected = whole(grown.loop)
    assert len({step.samples for step in expected.values()}) == len(expected) == EPOCHS * 8
    for _, steps in groups:
        for at, step in steps.items():
            assert step.samples == expected[at].samples
            assert step.loss == pytest.approx(expected[at].loss, rel=BOUND), at
    assert max(third) == EPOCHS * 8
    assert state.newest_first()[0].step == EPOCHS * 8
    what = [i.what for i in interruptions(build_report(target.open().store, "run"))]
    assert what[0] == "resized"
    assert what[1] in ({"worker lost", "node lost"} if how == "killed" else {"preempted"})
    if how == "drained":
        grown.kill()
