from __future__ import annotations

import logging
import re
from dataclasses import replace

from ray_workers.config.scaling import Scaling
from ray_workers.hang_watch import HangWatch, Hung, _sentence
from ray_workers.policies.hang import HangRule, RankPulse


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


SILENT = RankPulse(rank=1, pid=1, step=50, silent_s=5000.0, gaps=40, median_s=1.0, longest_s=2.0)


def watch() -> tuple[HangWatch, Clock]:
    clock = Clock()
    return HangWatch(HangRule(at_least_s=60, steps=30), clock), clock


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
