"""The watch for room beside the workers that train: when it asks for places, and when it asks for a new start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ray_workers import room
from ray_workers.messages import RESIZE, TIME_LIMIT, PawlEvent
from ray_workers.policies.elastic import GrowthRule, WorkerRange
from ray_workers.room import GrowthPlan, GrowthWatch
from ray_workers.store.errors import AttemptInterruptedError


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


class Waiting:
    """The wait for room before a group starts, on a clock of its own; places are created when a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, created: dict[int, int]) -> None:
        self.now, self.created = 0.0, created
        self.asked, self.closed = 0, False
        self.told: list[PawlEvent] = []
        monkeypatch.setattr(room, "Places", self._make)
        monkeypatch.setattr(room, "time", self)

    def _make(self, worker: Any, count: int) -> Waiting:
        assert worker == {"CPU": 1}
        self.asked = count
        return self

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def free(self) -> int:
        return max((n for since, n in self.created.items() if since <= self.now), default=0)

    def close(self) -> None:
        self.closed = True

    def __call__(self, left_s: float | None = None) -> int:
        limits = WorkerRange(least=2, most=4)
        return room.wait_for_room({"CPU": 1}, limits, left_s=left_s, on_event=self.told.append)


def test_room_for_the_most_is_taken_at_once_and_given_back_first(monkeypatch):
    waiting = Waiting(monkeypatch, {1: 4})
    assert waiting() == 4
    assert waiting.asked == 4
    assert waiting.now == 1
    assert waiting.closed


def test_fewer_are_taken_when_no_more_have_come_for_a_while(monkeypatch):
    waiting = Waiting(monkeypatch, {1: 1, 3: 2, 5: 3})
    assert waiting() == 3
    assert waiting.now >= 8


def test_too_little_room_is_told_now_and_then_until_the_time_limit(monkeypatch):
    waiting = Waiting(monkeypatch, {1: 1})
    with pytest.raises(AttemptInterruptedError, match="there is room for 1") as met:
        waiting(left_s=150)
    assert met.value.details["cause"] == TIME_LIMIT
    assert [e.kind for e in waiting.told] == ["waiting", "waiting"]
    assert waiting.closed


def test_a_place_counts_when_ray_has_made_it_on_a_node_that_stays(monkeypatch):
    states = {"a": "CREATED", "b": "PENDING", "c": "CREATED", "d": "RESCHEDULING"}
    table = {i: {"state": s, "bundles_to_node_id": {0: f"node-{i}"}} for i, s in states.items()}
    ids = iter("abcde")  # nothing is known of the last one
    removed: list[Any] = []
    monkeypatch.setattr(room, "placement_group", lambda _: SimpleNamespace(id=Hex(next(ids))))
    monkeypatch.setattr(room, "placement_group_table", lambda: table)
    monkeypatch.setattr(room, "draining_nodes", lambda: {"node-c": 30.0})
    monkeypatch.setattr(room, "remove_placement_group", removed.append)
    places = room.Places({"CPU": 1.0}, 5)
    assert places.free() == 1
    monkeypatch.setattr(room, "draining_nodes", dict)
    assert places.free() == 2
    monkeypatch.setattr(room, "placement_group_table", lambda: 1 / 0)
    assert places.free() == 0
    places.close()
    places.close()
    assert len(removed) == 5


class Hex(str):
    """An id as Ray has them."""

    __slots__ = ()

    def hex(self) -> str:
        return str(self)
