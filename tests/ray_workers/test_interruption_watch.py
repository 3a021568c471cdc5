"""A time limit and departing nodes ask for the end early enough for a last save, and only when they concern us."""

from __future__ import annotations

import pytest

from ray_workers.interruption_watch import InterruptionWatch, TimeLimit
from ray_workers.messages import DRAINING, TIME_LIMIT, PawlEvent

AGENTS = {"a": "agent a", "b": "agent b"}


class Scene:
    """A clock, and nodes that drain, as the test sets them."""

    def __init__(self, *, limit_s: float | None = None, left_s: float | None = None) -> None:
        self.now = 100.0
        self.draining: dict[str, float | None] = {}
        self.places = {"a": "node host-a, rank 0"}
        limit = (
            None
            if limit_s is None
            else TimeLimit(limit_s=limit_s, until=100.0 + (left_s or limit_s))
        )
        self.watch = InterruptionWatch(
            limit=limit,
            draining=lambda: self.draining,
            place=self.places.get,
            clock=lambda: self.now,
        )

    def after(self, seconds: float):
        self.now += seconds
        return self.watch.asked(AGENTS)

    def commit(self, step: int, persist_s: float) -> None:
        details = {"step": step, "persist_s": persist_s}
        self.watch.committed(PawlEvent(kind="committed", message="", at="", details=details))


def test_without_limit_and_departures_training_goes_on_for_ever() -> None:
    assert Scene().after(1e9) is None


def test_the_limit_asks_early_enough_to_end_and_says_what_is_left() -> None:
    scene = Scene(limit_s=600)
    assert scene.after(587) is None
    asked = scene.after(1.5)
    assert asked is not None
    assert (asked.reason, asked.cause) == ("interrupted", TIME_LIMIT)
    assert asked.grace_s == pytest.approx(11.5 / 2)


def test_slow_saves_and_slow_steps_make_it_ask_earlier() -> None:
    scene = Scene(limit_s=600)
    scene.commit(10, persist_s=20.0)
    scene.now += 50
    scene.commit(20, persist_s=15.0)  # 5 s a step; 20 s is the longest save so far
    lead = 12 + 2 * 1.5 * 20 + 2 * 5
    assert scene.after(600 - 50 - lead - 1) is None
    asked = scene.after(1.5)
    assert asked is not None
    assert asked.grace_s == pytest.approx(lead - 0.5 - 12)


def test_ranks_that_say_how_long_their_steps_take_are_asked_earlier_before_any_commit() -> None:
    scene = Scene(limit_s=600)
    scene.watch.steps_take(8.0)
    scene.watch.steps_take(2.0)
    lead = 12 + 2 * 8
    assert scene.after(600 - lead - 1) is None
    asked = scene.after(1.5)
    assert asked is not None
    assert asked.grace_s == pytest.approx(lead - 0.5 - 12)


def test_time_that_was_spent_before_counts() -> None:
    scene = Scene(limit_s=600, left_s=30)
    assert scene.after(17) is None
    assert scene.after(2) is not None


def test_a_limit_shorter_than_any_lead_still_trains_for_half_of_it() -> None:
    scene = Scene(limit_s=10)
    assert scene.after(4.5) is None
    assert scene.after(1) is not None


def test_a_node_with_ranks_that_drains_ends_the_attempt_and_no_other_does() -> None:
    scene = Scene()
    scene.draining = {"b": 30.0, "elsewhere": 30.0}
    assert scene.after(5) is None
    scene.draining["a"] = 30.0
    asked = scene.after(5)
    assert asked is not None
    assert (asked.cause, asked.grace_s) == (DRAINING, 27.0)
    assert asked.told == "node draining (node host-a, rank 0)"


@pytest.mark.parametrize(
    ("left", "grace"), [(None, 20.0), (2.0, 0.0), (0.0, 20.0), (-45.0, 20.0), (-1e6, 20.0)]
)
def test_a_node_that_does_not_say_when_or_said_it_by_another_clock_gets_what_ray_gives(
    left: float | None, grace: float
) -> None:
    scene = Scene()
    scene.draining = {"a": left}
    asked = scene.after(5)
    assert asked is not None
    assert asked.grace_s == grace


def test_ray_is_not_asked_at_every_look() -> None:
    scene = Scene()
    scene.draining = {"a": None}
    assert scene.after(1) is None
    assert scene.after(1) is not None
