"""The watch for room beside the workers that train: when it asks for places, and when it asks for a new start."""

from __future__ import annotations

import pytest

from ray_workers.messages import RESIZE
from ray_workers.policies.elastic import GrowthRule, WorkerRange
from ray_workers.room import GrowthPlan, GrowthWatch


class MadeUpPlaces:
    """Places that a test creates."""

    def __init__(self) -> None:
        self.count, self.created, self.closed = 0, 0, False

    def free(self) -> int:
        return self.created

    def close(self) -> None:
        self.closed = True


class Scene:
    def __init__(self, *, workers: int = 2, unfit: tuple[int, ...] = ()) -> None:
        self.now, self.places = 0.0, MadeUpPlaces()
        self.watch = GrowthWatch(
            GrowthPlan(
                worker={"CPU": 2.0},
                limits=WorkerRange(least=2, most=4, unfit=frozenset(unfit)),
                workers=workers,
                rule=GrowthRule(after_s=10),
            ),
            places=self.make,
            clock=lambda: self.now,
        )

    def make(self, worker, count):
        assert worker == {"CPU": 2.0}
        self.places.count = count
        return self.places

    def after(self, seconds: float, *, arrived: int = 2, created: int | None = None):
        self.now += seconds
        self.places.created = self.places.created if created is None else created
        return self.watch.asked(arrived=arrived)


def test_no_place_is_asked_for_before_all_workers_have_theirs():
    scene = Scene()
    assert scene.after(5, arrived=1) is None
    assert scene.places.count == 0
    assert scene.after(5, arrived=2) is None
    assert scene.places.count == 2


def test_a_place_that_stays_free_ends_the_group_for_a_larger_one():
    scene = Scene()
    scene.after(5)
    assert scene.after(5, created=1) is None
    asked = scene.after(10)
    assert asked is not None
    assert (asked.reason, asked.cause, asked.place) == ("interrupted", RESIZE, "2 to 3 workers")
    assert asked.grace_s >= 600


def test_nodes_that_join_meanwhile_make_one_new_start_together():
    scene = Scene()
    scene.after(5)
    assert scene.after(5, created=1) is None
    assert scene.after(8, created=2) is None
    asked = scene.after(2)
    assert asked is not None
    assert asked.place == "2 to 4 workers"


def test_a_place_that_went_away_again_begins_the_wait_anew():
    scene = Scene()
    scene.after(5)
    assert scene.after(5, created=1) is None
    assert scene.after(9, created=0) is None
    assert scene.after(2, created=1) is None
    assert scene.after(9) is None
    assert scene.after(1) is not None


@pytest.mark.parametrize("scene", [Scene(workers=4), Scene(unfit=(3,))], ids=["full", "unfit"])
def test_room_that_cannot_be_used_is_left_alone(scene):
    scene.after(5, arrived=4)
    scene.after(5, created=1, arrived=4)
    assert scene.after(99, arrived=4) is None


def test_a_fixed_number_of_workers_never_changes():
    watch = GrowthWatch(None)
    assert watch.asked(arrived=2) is None
    watch.close()


def test_at_the_end_the_places_are_given_back():
    scene = Scene()
    scene.after(5)
    scene.watch.close()
    assert scene.places.closed
