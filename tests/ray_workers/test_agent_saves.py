"""Whatever becomes of the coordinator, a save at the agent ends with an answer, and what was dropped is told to who lives."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError

from ray_workers import agent_saves
from ray_workers.agent_saves import AgentSaves
from ray_workers.coordination import Coordination, Coordinator
from ray_workers.messages import RankState, StagedPart, StagedShard, VersionOutcome
from ray_workers.metrics import RunMetrics
from ray_workers.store.errors import StoreUnavailableError
from ray_workers.store.late_store import LateStore
from ray_workers.store.manifest import Progress
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import StorageTarget
from ray_workers.uploader import ShardStore, Uploader
from tests.support.fake_actor import PENDING, FakeActor, without_ray

STORED = VersionOutcome(step=7, number=3)
AWAY = ActorUnavailableError("cut", None)


class Unseen:
    """Instruments that nobody reads."""

    def add(self, *_: object) -> None: ...
    def set(self, *_: object) -> None: ...
    def observe(self, *_: object) -> None: ...


class Scene:
    def __init__(self, folder, store: ShardStore | None = None, patience_s: float = 30.0) -> None:
        path = folder / "buffer"
        path.write_bytes(b"shard")
        self.staged = StagedShard(
            rank=1, world_size=2, progress=Progress(step=7, epoch=0, finished=False),
            payload="state", path=str(path), parts=(StagedPart(begin=0, bytes=5, layout={}),),
            state=RankState(rank_plain=None), staged_s=0.0,
        )  # fmt: skip
        self.coordination = Coordination(patience_s)
        uploader = Uploader(store or MemoryStore(), "run", tries=2, sleep=lambda _: None)
        metrics = RunMetrics(Unseen(), "run")
        self.saves = AgentSaves(uploader, self.coordination, metrics, "here", sleep=lambda _: None)

    def save(self) -> VersionOutcome:
        return self.saves.save(self.staged)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    without_ray(monkeypatch)


def eventually(told: Callable[[], list[tuple[object, ...]]]) -> list[tuple[object, ...]]:
    """What a thread of its own says."""
    deadline = time.monotonic() + 60
    while not told() and time.monotonic() < deadline:
        time.sleep(0.005)
    return told()


def test_a_coordinator_that_cannot_be_reached_for_a_while_is_asked_again_and_not_buried(tmp_path):
    scene, actor = Scene(tmp_path), FakeActor(gather=[AWAY, AWAY, STORED])
    scene.coordination.attach(Coordinator(actor=actor, fence=2))
    outcome = scene.save()
    assert outcome.number == 3
    assert [entry.rank for entry in outcome.shards] == [1]
    assert len(actor.asked("gather")) == 3
    assert scene.coordination.current().actor is actor


def test_one_that_stays_away_costs_the_save_and_is_told_when_it_can_be(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_saves, "_AWAY_TRIES", 2)
    scene, actor = Scene(tmp_path), FakeActor(gather=[AWAY])
    scene.coordination.attach(Coordinator(actor=actor, fence=2))
    outcome = scene.save()
    assert outcome.number is None
    assert "gave no answer: ActorUnavailableError" in str(outcome.reason)
    assert eventually(lambda: actor.asked("give_up")) == [(scene.staged.save, outcome.reason)]


@pytest.mark.parametrize("error", [ActorDiedError(), OutOfMemoryError("killed by Ray")])
def test_a_dead_one_is_buried_and_its_successor_told_what_it_took_along(tmp_path, error):
    scene = Scene(tmp_path)
    scene.coordination.attach(Coordinator(actor=FakeActor(gather=[error]), fence=2))
    outcome = scene.save()
    assert outcome.number is None
    assert "the checkpoint actor died" in str(outcome.reason)
    successor = FakeActor()
    scene.coordination.attach(Coordinator(actor=successor, fence=6))
    assert eventually(lambda: successor.asked("lose")) == [(scene.staged.save, outcome.reason)]


def test_without_a_coordinator_the_save_is_dropped_and_the_next_one_hears_of_it(tmp_path):
    scene = Scene(tmp_path, patience_s=0.3)
    outcome = scene.save()
    assert (outcome.step, outcome.number) == (7, None)
    assert "not told who coordinates" in str(outcome.reason)
    late = FakeActor()
    scene.coordination.attach(Coordinator(actor=late, fence=2))
    assert eventually(lambda: late.asked("give_up")) == [(scene.staged.save, outcome.reason)]


def test_what_the_coordinator_raises_stays_here(tmp_path):
    error = RayTaskError("gather", "Traceback", KeyError("bug"), "worker", 7, "ip")
    scene, actor = Scene(tmp_path), FakeActor(gather=[error.as_instanceof_cause()])
    scene.coordination.attach(Coordinator(actor=actor, fence=2))
    outcome = scene.save()
    assert "KeyError" in str(outcome.reason)
    assert eventually(lambda: actor.asked("give_up")) == [(scene.staged.save, outcome.reason)]


def test_an_agent_that_comes_up_while_the_store_is_away_stores_when_it_is_back(
    tmp_path, monkeypatch
):
    target = StorageTarget(str(tmp_path / "store"))
    target.open(create=True)
    opened = StorageTarget.open
    answers: list[Exception] = [StoreUnavailableError("refused")] * 3

    def open_or_not(self: StorageTarget):
        if answers:
            raise answers.pop()
        return opened(self)

    monkeypatch.setattr(StorageTarget, "open", open_or_not)
    scene = Scene(tmp_path, LateStore(target))
    actor = FakeActor(gather=[STORED], give_up=[VersionOutcome(step=7, number=None)])
    scene.coordination.attach(Coordinator(actor=actor, fence=2))
    assert scene.save().number is None  # both tries came too early
    assert "refused" in str(actor.asked("give_up")[0][1])
    assert scene.save().number == 3


def test_the_coordinator_hears_that_a_shard_is_being_stored(tmp_path):
    scene, actor = Scene(tmp_path), FakeActor(gather=[STORED])
    scene.coordination.attach(Coordinator(actor=actor, fence=2))
    scene.save()
    assert actor.calls[0] == ("begin", (scene.staged.save, 1))


@pytest.mark.parametrize(
    ("answer", "at_work"),
    [
        ({"pid": 7}, True),
        (PENDING, False),  # it stands still
        (AWAY, False),
        (ActorDiedError(), True),  # what it took along is said to be lost
    ],
)
def test_it_knows_whether_an_open_save_comes_to_an_end(tmp_path, answer, *, at_work):
    scene = Scene(tmp_path)
    scene.coordination.attach(Coordinator(actor=FakeActor(process=[answer]), fence=2))
    assert scene.saves.at_work() is at_work


def test_without_a_coordinator_no_save_comes_to_an_end(tmp_path):
    assert not Scene(tmp_path, patience_s=0.01).saves.at_work()
