"""A rank's heart is told to the agent that lives, so that it counts as watched after its first agent died."""

from __future__ import annotations

import time

from ray.exceptions import ActorDiedError

from ray_workers import heartbeat
from ray_workers.agent_link import AgentLink
from ray_workers.heart import Heart
from ray_workers.heartbeat import Heartbeat
from tests.support.fake_actor import FakeActor, without_ray


def test_the_next_agent_hears_the_beats_and_gets_the_stacks_that_it_wants(monkeypatch):
    without_ray(monkeypatch)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.005)
    living = FakeActor(beat=[True, False])
    agents = [FakeActor(beat=[ActorDiedError()]), living]
    with Heartbeat(Heart(), AgentLink(lambda: agents.pop(0)), 1, told=True):
        deadline = time.monotonic() + 60
        while len(living.asked("beat")) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
    assert [pulse.rank for (pulse,) in living.asked("beat")][:2] == [1, 1]
    ((rank, stacks),) = living.asked("put_stacks")
    assert rank == 1
    assert "pawl-heartbeat" in stacks
