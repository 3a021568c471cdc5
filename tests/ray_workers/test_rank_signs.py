"""Where ranks train and since when one is gone: with real processes, and with agents that answer at will."""

from __future__ import annotations

import subprocess

import pytest

from ray_workers.rank_signs import BesideRanks, RankPlaces


def test_a_rank_lives_as_long_as_its_process_and_its_loop():
    process = subprocess.Popen(["sleep", "600"])
    beside = BesideRanks()
    try:
        beside.arrive(0, process.pid)
        beside.arrive(1, process.pid)
        assert beside.signs() == {0: True, 1: True}
        beside.leave(1)
        assert beside.signs() == {0: True, 1: False}
    finally:
        process.kill()
    # Dead, and not yet waited for: a zombie is no rank that trains.
    while beside.signs()[0]:
        pass
    process.wait()
    assert beside.signs() == {0: False, 1: False}
    beside.arrive(1, 1)
    assert beside.signs()[1]


class Scene:
    def __init__(self) -> None:
        self.now = 10.0
        self.places = RankPlaces(clock=lambda: self.now)
        self.look("a", "b")
        self.places.told("a", {0: True, 1: True})
        self.places.told("b", {2: True})

    def look(self, *nodes: str) -> None:
        self.places.look({}, {node: f"host-{node}" for node in nodes})


def test_every_rank_has_its_node_even_when_that_is_gone():
    scene = Scene()
    assert [scene.places.node_of(rank) for rank in (0, 1, 2, 3)] == [
        "host-a",
        "host-a",
        "host-b",
        None,
    ]
    assert scene.places.gone_for_s() is None
    scene.look("a")
    assert scene.places.node_of(2) == "host-b"
    scene.now += 3
    scene.look("a")
    assert scene.places.gone_for_s() == 3


def test_the_first_that_is_gone_counts():
    scene = Scene()
    scene.places.told("a", {0: True, 1: False})
    scene.now += 2
    scene.places.told("b", {2: False})
    scene.now += 2
    assert scene.places.gone_for_s() == 4


def test_an_agent_that_was_started_again_takes_no_rank_away():
    scene = Scene()
    scene.places.told("a", {})
    assert scene.places.place("a") == "node host-a, ranks 0 and 1"
    assert scene.places.gone_for_s() is None


@pytest.mark.parametrize(
    ("node", "place"),
    [("a", "node host-a, ranks 0 and 1"), ("b", "node host-b, rank 2"), ("c", "node c"), ("d", None)],
)  # fmt: skip
def test_a_place_for_people(node, place):
    scene = Scene()
    scene.places.told("d", {})  # it answered, and nobody trains there
    assert scene.places.place(node) == place
