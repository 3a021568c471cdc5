import time
import types
from typing import Any

import pytest

from benchmarks import contest
from benchmarks.contest import Round, hold, train
from benchmarks.page import rival_rows
from benchmarks.rivals import Begun


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where somebody spends it: a product takes a second."""

    class Clock:
        now = 0.0

        def spend(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(contest, "work", clock.spend)
    monkeypatch.setattr(contest, "compute", lambda seconds: seconds)
    monkeypatch.setattr(contest, "copy_seconds", lambda *_: 2.0)
    return clock


def contestant(clock, *, stands, holds, left):
    def begin():
        clock.spend(stands)
        holding = iter([holds])
        return Begun(
            before_step=lambda: clock.spend(next(holding, 0.0)), wait=lambda: clock.spend(left)
        )

    return begin


def test_training_stands_still_at_the_save_and_before_a_step_and_not_for_what_is_left(clock):
    trained = train(80, contestant(clock, stands=3.0, holds=4.0, left=100.0))
    assert (trained.stood, trained.seconds, trained.durable) == (7.0, 87.0, 187.0)
    assert train(80).seconds == 80.0


def test_what_a_save_adds_is_the_difference_to_the_same_work_without_it(clock):
    made: Any = types.SimpleNamespace(tensors=())
    begin = contestant(clock, stands=3.0, holds=4.0, left=100.0)
    found = hold({"it": begin}, made, 3, tell=lambda _: None)
    assert found == {"it": [Round(stood=7.0, added=7.0, memcpy=2.0)] * 3}


def test_the_table_tells_both_and_what_was_not_measured():
    rows, medians = rival_rows(
        {
            "one": [Round(stood=4.0, added=-1.0, memcpy=2.0)],
            "other": [Round(stood=6.0, added=None, memcpy=2.0)],
        }
    )
    assert rows[1:] == [
        ["one", "2", "2 to 2", "-0.5", "-0.5 to -0.5", "1"],
        ["other", "3", "3 to 3", "not measured", "", "1"],
    ]
    assert medians == {"one": 2.0, "other": 3.0}
