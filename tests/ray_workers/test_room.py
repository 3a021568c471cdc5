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
        self.count, self.created, self.asked, self.closed = 0, 0, 0, False

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
        self.places.asked += 1
        self.places.closed = False
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


def test_a_place_that_is_of_no_use_alone_is_given_back_and_asked_for_again():
    """Another run may wait for just that one, and this one for a second beside it."""
    scene = Scene(unfit=(3,))
    scene.after(5)
    assert scene.after(5, created=1) is None
    closed = []
    for seconds in (119, 1, 9, 1):
        scene.after(seconds)
        closed.append(scene.places.closed)
    assert closed == [False, True, True, False]
    assert scene.places.asked == 2
    scene.after(5, created=1)
    scene.after(100, created=2)
    assert scene.after(10) is not None


def test_a_place_that_comes_and_goes_or_was_of_use_is_held_for_as_long_again():
    scene = Scene(unfit=(3,))
    scene.after(5)
    closed = []
    for seconds, created in ((100, 1), (100, 0), (100, 1), (9, 2), (100, 1), (119, 1), (1, 1)):
        assert scene.after(seconds, created=created) is None
        closed.append(scene.places.closed)
    assert closed == [False] * 6 + [True]


def test_what_waits_to_be_created_stays_asked_for():
    scene = Scene()
    scene.after(5)
    for _ in range(100):
        scene.after(60, created=0)
    assert (scene.places.asked, scene.places.closed) == (1, False)


def test_without_a_greater_number_that_fits_no_place_is_asked_for():
    scene = Scene(unfit=(3, 4))
    scene.after(5)
    scene.after(5)
    assert scene.places.asked == 0


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

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, created: dict[int, int], least: int = 2
    ) -> None:
        self.now, self.created, self.least = 0.0, created, least
        self.asked, self.closed = 0, False
        self.askings, self.closings = list[float](), 0
        self.told: list[PawlEvent] = []
        monkeypatch.setattr(room, "Places", self._make)
        monkeypatch.setattr(room, "time", self)

    def _make(self, worker: Any, count: int) -> Waiting:
        assert worker == {"CPU": 1}
        self.asked, self.closed = count, False
        self.askings.append(self.now)
        return self

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def free(self) -> int:
        return max((n for since, n in self.created.items() if since <= self.now), default=0)

    def close(self) -> None:
        self.closed = True
        self.closings += 1

    def __call__(self, left_s: float | None = None) -> int:
        limits = WorkerRange(least=self.least, most=4)
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


class Pool:
    """A cluster with room for so many workers: whoever asked first gets what is there, or what another gives back."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, room_for: int, chances: list[float]
    ) -> None:
        self.room_for, self.askers, self.now = room_for, list[PoolPlaces](), 0.0
        monkeypatch.setattr(room, "Places", lambda _, count: PoolPlaces(self, count))
        monkeypatch.setattr(room, "random", SimpleNamespace(random=lambda: chances.pop(0)))
        monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: self.now))

    def deal(self) -> None:
        """In turns, so that each asker has a part."""
        while any(asker.wants for asker in self.askers):
            for asker in self.askers:
                if sum(one.held for one in self.askers) == self.room_for:
                    return
                asker.held += asker.wants


class PoolPlaces:
    def __init__(self, pool: Pool, count: int) -> None:
        self.pool, self.count, self.held = pool, count, 0
        pool.askers.append(self)

    @property
    def wants(self) -> bool:
        return self.held < self.count

    def free(self) -> int:
        self.pool.deal()
        return self.held

    def close(self) -> None:
        self.pool.askers.remove(self)


@pytest.mark.parametrize("chances", [[0.1, 0.7] * 2, [0.0, 0.0, 0.2, 0.9] * 2])
def test_two_runs_that_hold_a_part_of_what_each_needs_begin_one_after_the_other(
    monkeypatch, chances
):
    pool = Pool(monkeypatch, 2, [*chances, *[0.5] * 50])
    limits = WorkerRange(least=2, most=2)
    waiting = {name: room._Asking({"CPU": 1}, limits) for name in ("one", "two")}
    began: dict[str, float] = {}
    while waiting and pool.now < 600:
        pool.now += 1
        for name, asking in list(waiting.items()):
            if asking.look(pool.now) is not None:
                began[name] = pool.now
                asking.close()  # as if it trained for no time
                del waiting[name]
    assert len(began) == 2
    assert min(began.values()) >= 30


def test_places_that_come_one_after_the_other_are_not_given_back_in_between(monkeypatch):
    monkeypatch.setattr(room, "random", SimpleNamespace(random=lambda: 0.0))
    waiting = Waiting(monkeypatch, {1: 1, 30: 2, 59: 3, 88: 4}, least=4)
    assert waiting() == 4
    assert waiting.closings == 1


def test_what_is_given_back_is_asked_for_again_after_a_pause(monkeypatch):
    monkeypatch.setattr(room, "random", SimpleNamespace(random=lambda: 0.0))
    waiting = Waiting(monkeypatch, {1: 1, 38: 2})
    assert waiting() == 2
    assert waiting.askings == [0, 36]
    assert waiting.closings == 2


def test_while_no_place_is_there_all_stay_asked_for(monkeypatch):
    waiting = Waiting(monkeypatch, {900: 4})
    assert waiting() == 4
    assert waiting.askings == [0]


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
