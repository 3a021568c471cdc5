"""A save whose agent fails is asked for again, at whoever is the agent by then; one that none takes costs the budget."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    OutOfMemoryError,
    RayTaskError,
)

from ray_workers import ray_pipeline
from ray_workers.agent_link import AgentLink
from ray_workers.messages import (
    DriverNews,
    RankState,
    SaveId,
    StagedShard,
    StopRequest,
    VersionOutcome,
)
from ray_workers.policies.failure_rate import PRIOR
from ray_workers.ray_pipeline import RayPipeline
from ray_workers.store.errors import StoreRefusedError, StoreUnavailableError
from ray_workers.store.manifest import Progress
from tests.support.fake_actor import PENDING, FakeActor, without_ray

STAGED = StagedShard(
    rank=1, world_size=2, progress=Progress(step=7, epoch=0, finished=False), payload="state",
    path="buffer", parts=(), state=RankState(rank_plain=None), staged_s=0.0,
)  # fmt: skip
STORED = VersionOutcome(step=7, number=3)
SPENT = VersionOutcome(step=7, number=None, reason="dropped", stop="budget_spent")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_ray(monkeypatch)
    monkeypatch.setattr(ray_pipeline, "_RESUBMIT_PAUSE_S", 0.001)
    monkeypatch.setattr(ray_pipeline, "_RESUBMITS", 3)
    monkeypatch.setattr(ray_pipeline, "_STOP_POLL_S", 0.001)


def pipeline(*agents: FakeActor, coordinator: FakeActor | None = None) -> RayPipeline:
    """The agents that have the name, one after the other; when there are no more, nobody has it."""
    left = list(agents)

    def find() -> FakeActor:
        if not left:
            raise ValueError("no actor of that name")
        return left.pop(0)

    return RayPipeline(AgentLink(find), 1, lambda: coordinator)


@pytest.mark.parametrize(
    "error", [ActorDiedError(), OutOfMemoryError("killed"), ActorUnavailableError("cut", None)]
)
def test_an_agent_that_comes_back_in_place_is_asked_again(error):
    agent = FakeActor(save=[error, STORED])
    assert pipeline(agent).submit(STAGED).wait(60) == STORED


def test_the_agent_that_was_started_in_the_place_of_a_dead_one_is_found():
    dead, living = FakeActor(save=[ActorDiedError()]), FakeActor(save=[STORED])
    pipe = pipeline(dead, living)
    assert pipe.submit(STAGED).wait(60) == STORED
    pipe.decline(SaveId(step=8), 1, "why")
    assert living.asked("decline") == [(SaveId(step=8), "rank 1: why")]


def test_a_save_that_no_agent_takes_is_given_up_at_the_coordinator_and_its_stop_is_heard():
    agent, coordinator = FakeActor(save=[ActorDiedError()]), FakeActor(give_up=[SPENT])
    assert pipeline(agent, coordinator=coordinator).submit(STAGED).wait(60) == SPENT
    ((save, reason),) = coordinator.asked("give_up")
    assert save == STAGED.save
    assert reason.startswith("rank 1: the node agent does not come back: ActorDiedError")


def test_what_the_agent_raises_is_an_outcome_and_no_exception_of_the_loop():
    error = RayTaskError("save", "Traceback", StoreUnavailableError("away"), "worker", 7, "ip")
    agent = FakeActor(save=[error.as_instanceof_cause()])
    coordinator = FakeActor(give_up=[SPENT])
    assert pipeline(agent, coordinator=coordinator).submit(STAGED).poll() == SPENT
    assert "the node agent failed" in coordinator.asked("give_up")[0][1]


@pytest.mark.parametrize("coordinator", [None, FakeActor(give_up=[ActorDiedError()])])
def test_without_a_coordinator_either_the_save_is_dropped_here(coordinator):
    agent = FakeActor(save=[ActorDiedError()])
    outcome = pipeline(agent, coordinator=coordinator).submit(STAGED).wait(60)
    assert outcome is not None
    assert (outcome.step, outcome.number) == (7, None)
    assert "does not come back" in str(outcome.reason)


def test_nobody_waits_in_a_poll():
    agent = FakeActor(save=[ActorDiedError(), PENDING])
    pending = pipeline(agent).submit(STAGED)
    began = time.monotonic()
    assert pending.poll() is None
    assert time.monotonic() - began < 5


def test_buffers_come_from_the_agent_that_lives():
    dead = FakeActor(allocate=[OutOfMemoryError("killed")])
    living = FakeActor(allocate=[["/dev/shm/one"]])  # noqa: S108 - a name
    assert pipeline(dead, living).allocate(1, count=1, size=9) == [str(Path("/dev/shm/one"))]  # noqa: S108


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (GetTimeoutError("late"), GetTimeoutError),
        (
            RayTaskError("a", "t", StoreRefusedError("full"), "w", 7, "ip").as_instanceof_cause(),
            StoreRefusedError,
        ),
    ],
)
def test_buffers_that_are_refused_are_not_asked_for_again(raised, error):
    agent = FakeActor(allocate=[raised])
    with pytest.raises(error):
        pipeline(agent).allocate(1, count=1, size=9)
    assert len(agent.asked("allocate")) == 1


def test_a_large_state_gets_the_time_to_reserve_its_memory(monkeypatch):
    timeouts = []

    def get(_ref, *, timeout):
        timeouts.append(timeout)
        return ["one", "two"]

    monkeypatch.setattr("ray_workers.ray_pipeline.ray.get", get)
    pipe = pipeline(FakeActor(allocate=[["one", "two"]] * 2))
    pipe.allocate(1, count=2, size=50_000_000_000)
    pipe.allocate(1, count=2, size=50)
    large, small = timeouts
    assert large >= 100_000_000_000 / 100e6, "less than at the lowest rate"
    assert 60 <= small < 61


def test_a_request_to_end_is_heard_from_the_agent_that_lives():
    dead = FakeActor(news=[ActorDiedError()])
    asking = StopRequest(reason="interrupted", grace_s=1000.0)
    living = FakeActor(news=[DriverNews(stop=asking, validating=True, rate=PRIOR)])
    pipe = pipeline(dead, living)
    deadline = time.monotonic() + 60
    while (asked := pipe.stop_request()) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    pipe.close()
    assert asked is not None
    assert asked.reason == "interrupted"
    assert pipe.news().validating
    assert pipe.news().rate == PRIOR


def test_a_request_that_leaves_less_time_is_heard_after_another():
    slow, quick = (StopRequest(reason="interrupted", grace_s=s) for s in (600.0, 6.0))
    pipe = pipeline(FakeActor(news=[DriverNews(stop=slow)] * 3 + [DriverNews(stop=quick)]))
    heard = list[float]()
    deadline = time.monotonic() + 60
    while (not heard or heard[-1] > 6.0) and time.monotonic() < deadline:
        asked = pipe.stop_request()
        heard += [] if asked is None else [asked.grace_s]
        time.sleep(0.0005)
    pipe.close()
    assert heard[-1] <= 6.0


@pytest.mark.parametrize(
    ("answer", "at_work"),
    [
        (True, True),
        (False, False),  # the checkpoint actor stands still
        (GetTimeoutError("it stands still"), False),
        (ActorDiedError(), True),  # it is being restarted, and asked again
    ],
)
def test_what_stands_still_is_not_waited_for(answer, *, at_work):
    agent, next_one = FakeActor(at_work=[answer]), FakeActor()
    assert pipeline(agent, next_one).at_work() is at_work
