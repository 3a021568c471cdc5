from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import ray

from ray_workers.config.scaling import Scaling
from ray_workers.hang_watch import HangWatch, Hung, _sentence
from ray_workers.policies.hang import HangRule, RankPulse
from tests.support.fake_actor import PENDING, FakeActor, without_ray


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


SILENT = RankPulse(rank=1, pid=1, step=50, silent_s=5000.0, gaps=40, median_s=1.0, longest_s=2.0)


def watch(over: Callable[[], bool] = lambda: False) -> tuple[HangWatch, Clock]:
    clock = Clock()
    return HangWatch(HangRule(at_least_s=60, steps=30), clock, over), clock


def test_a_silent_rank_is_found_when_nobody_rested_for_as_long() -> None:
    watching, clock = watch()
    clock.now = 100.0
    assert watching.judge([SILENT]) == (SILENT,)


def test_the_others_get_their_time_again_when_one_has_rested() -> None:
    watching, clock = watch()
    clock.now = 100.0
    assert watching.judge([replace(SILENT, rank=0, resting=True), SILENT]) == ()
    clock.now = 160.0
    assert watching.judge([SILENT]) == ()
    clock.now = 161.0
    assert watching.judge([SILENT]) == (SILENT,)


class Looked:
    """Looks at one rank on each of two nodes, every 5 seconds; each is silent since `since`, unless `says` speaks for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_ray(monkeypatch)
        self.watching, self.clock = watch(over=lambda: self.left)
        self.left = False
        self.since = 0.0
        self.says: dict[int, object] = {}
        self.agents = {f"node-{rank}": self._agent(rank) for rank in (0, 1)}

    def _agent(self, rank: int) -> FakeActor:
        def pulses() -> object:
            silent = self.clock.now - self.since
            return self.says.get(rank, [replace(SILENT, rank=rank, silent_s=silent)])

        return FakeActor(pulses=[pulses], stacks=[{rank: "File loop.py, line 7"}], rank_states=[{}])

    def after(self, seconds: float) -> Hung | None:
        """After so many seconds in which nobody looked."""
        self.clock.now += seconds
        return self.watching.look(self.agents)

    def stepping(self, seconds: float) -> None:
        """Nobody is found to hang."""
        for _ in range(int(seconds / 5)):
            self.since = self.clock.now + 5.0
            assert self.after(5.0) is None

    def until_hung(self) -> float:
        began = self.clock.now
        while (found := self.after(5.0)) is None:
            assert self.clock.now - began < 1000
        assert found.ranks == (0, 1)
        return self.clock.now - began


@pytest.fixture
def looked(monkeypatch) -> Looked:
    return Looked(monkeypatch)


def test_who_hangs_is_named_at_the_second_look_that_finds_it_and_killed(looked) -> None:
    assert 65 < looked.until_hung() <= 80  # at least 60 s, and an answer is read one look later
    for agent in looked.agents.values():
        assert agent.asked("kill_ranks") == [((0, 1),)]


@pytest.mark.parametrize("step", [50, 51])
def test_a_rank_that_was_found_silent_once_is_left_alone(looked, step) -> None:
    """After a pause that was too short to be told from silence, an agent speaks before its ranks do."""
    looked.stepping(200.0)
    looked.says = {1: [replace(SILENT, rank=1)]}
    looked.stepping(5.0)
    looked.says = {} if step == 50 else {1: [replace(SILENT, rank=1, step=step)]}
    looked.stepping(5.0)
    assert looked.watching._suspected == {(1, 50)}
    looked.says = {}
    looked.stepping(50.0)


def test_who_cannot_be_asked_in_between_is_not_found_twice_in_a_row(looked) -> None:
    looked.stepping(200.0)
    for said in ([replace(SILENT, rank=1)], PENDING, [replace(SILENT, rank=1)], PENDING):
        looked.says = {1: said}
        looked.stepping(5.0)


def test_a_pause_of_everything_is_no_silence_of_the_ranks(looked) -> None:
    """`docker pause`, a suspended machine: the clocks went on, and when it goes on all ranks look silent for hours."""
    for _ in range(4):
        looked.after(5.0)
    assert looked.after(7200.0) is None
    assert looked.until_hung() > 60


def test_a_pause_of_one_node_is_no_silence_of_the_ranks(looked) -> None:
    looked.says = {1: PENDING}
    for _ in range(100):
        assert looked.after(5.0) is None
    looked.says = {}
    assert looked.until_hung() > 60


def test_an_answer_that_is_late_now_and_then_holds_nothing_off_for_long(looked) -> None:
    looked.after(5.0)
    looked.says = {1: PENDING}
    looked.after(5.0)
    looked.says = {}
    assert looked.until_hung() <= 70


@pytest.mark.parametrize("method", ["want_stacks", "stacks", "rank_states"])
def test_who_leaves_while_stacks_are_gathered_is_not_held_up_and_nobody_is_killed(
    looked, method, monkeypatch
) -> None:
    """Ray is left then: a call would start a new one, and a thread that waits in the old one ends the process."""
    agent = looked.agents["node-1"]

    def leave() -> object:
        looked.left = True
        return PENDING

    def wait(*args: Any, **options: Any) -> Any:
        assert not looked.left, "Ray is called"
        return wait_before(*args, **options)

    wait_before = ray.wait
    monkeypatch.setattr(ray, "wait", wait)
    agent.answers(method, leave)
    began = time.monotonic()
    while not looked.left:
        assert looked.after(5.0) is None
    assert agent.calls[-1][0] == method
    assert time.monotonic() - began < 4


def test_without_a_rule_nobody_is_asked() -> None:
    watching = HangWatch(None)
    assert watching.judge([SILENT]) == ()
    assert watching.look({"node": None}) is None


def test_what_is_told_names_ranks_and_step_and_brings_the_stacks() -> None:
    event = Hung(sentence="It hangs.", ranks=(1,), step=50, stacks={0: "a", 1: "b"}).event()
    assert (event.kind, event.message) == ("hung", "It hangs.")
    assert event.details == {
        "level": logging.ERROR, "ranks": [1], "step": 50, "stacks": {"0": "a", "1": "b"},
    }  # fmt: skip


def test_what_is_said_names_the_ways_out_for_a_rank_that_was_at_work() -> None:
    sentence = _sentence([SILENT])
    assert sentence.startswith("Rank 1 took no step for 5000 s after step 50")
    assert "with session.resting():" in sentence
    (setting,) = re.findall(r"scaling\.(\w+)", sentence)
    assert setting in Scaling.model_fields
    assert "--hung-after" in sentence
