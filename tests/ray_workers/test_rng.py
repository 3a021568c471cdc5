import json
import random
from typing import Any

import numpy as np
import pytest
import torch

from ray_workers import rng
from ray_workers.state_tree import join, split
from ray_workers.store.errors import StateMismatchError


@pytest.fixture(autouse=True)
def _generators_as_before():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def draw():
    return (
        [random.random(), random.gauss(0, 1), random.randrange(10**9)],  # noqa: S311 - the generator under test
        [np.random.random(), np.random.normal(), np.random.randint(10**9)],
        torch.randn(5).tolist() + torch.randperm(10).tolist(),
    )


def through_the_store(state):
    parts = split(state, prefix="rank/0")
    return join(
        json.loads(json.dumps(parts.plain)), {k: v.clone() for k, v in parts.tensors.items()}
    )


@pytest.mark.parametrize("drawn_before", [0, 1, 3])
def test_every_generator_goes_on_where_it_was(drawn_before):
    for _ in range(drawn_before):
        draw()  # an odd number of gaussians leaves one in reserve, in Python and in numpy
    state = through_the_store(rng.capture())
    expected = [draw(), draw()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    rng.restore(state)
    assert [draw(), draw()] == expected


def test_capture_draws_nothing_and_is_no_view():
    state = rng.capture()
    first = draw()
    rng.restore(state)
    assert draw() == first


def test_a_replaced_bit_generator_of_numpy_comes_back():
    numpy_random: Any = np.random
    before = numpy_random.get_bit_generator()
    try:
        numpy_random.set_bit_generator(np.random.PCG64(5))
        state = through_the_store(rng.capture())
        expected = np.random.random()
        np.random.random()
        rng.restore(state)
        assert np.random.random() == expected
    finally:
        numpy_random.set_bit_generator(before)


def test_little_of_it_is_in_the_manifest():
    assert len(json.dumps(split(rng.capture(), prefix="rank/0").plain)) < 1000


def test_no_cuda_context_is_started():
    before = torch.cuda.is_initialized()
    rng.capture()
    assert torch.cuda.is_initialized() == before


@pytest.mark.parametrize(
    "change",
    [
        {"python": {"version": 3, "words": np.zeros(3, np.uint32), "gauss": None}},
        {"python": {}},
        {"numpy": {"bit_generator": "PCG65", "state": {}}},
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"torch": None},
    ],
    ids=["short words", "empty", "other bit generator", "short tensor", "nothing"],
)
def test_a_foreign_state_changes_no_generator(change):
    state = {**rng.capture(), **change}
    draw()  # so that a half-restored state would show
    probe = rng.capture()
    expected = draw()
    rng.restore(probe)
    with pytest.raises(StateMismatchError, match="does not fit"):
        rng.restore(state)
    assert draw() == expected


class Devices:
    """CUDA devices of a process: their generators' states by number, and the one in use."""

    def __init__(self, *states: int, current: int = 0) -> None:
        self.states = [torch.tensor([state], dtype=torch.uint8) for state in states]
        self.current = current

    def placed(self, monkeypatch: pytest.MonkeyPatch) -> "Devices":
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(self.states))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(self.states))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: self.states[device])
        monkeypatch.setattr(torch.cuda, "set_rng_state", self._set)
        return self

    def _set(self, state: torch.Tensor, device: int) -> None:
        self.states[device] = state

    @property
    def told(self) -> list[int]:
        return [int(state) for state in self.states]


@pytest.mark.parametrize(
    ("here", "then"),
    [
        (Devices(0, 0, current=1), [10, 20]),
        (Devices(0, 0, current=0), [20, 20]),
        (Devices(0, current=0), [20]),
        (Devices(0, 0, 0, current=2), [10, 20, 20]),
    ],
    ids=["same place", "another number", "fewer", "more"],
)
def test_the_device_in_use_goes_on_whatever_its_number(monkeypatch, here, then):
    Devices(10, 20, current=1).placed(monkeypatch)
    state = through_the_store(rng.capture())
    here.placed(monkeypatch)
    rng.restore(state)
    assert here.told == then


def test_without_a_cuda_device_a_state_of_one_is_refused(monkeypatch):
    Devices(10, 20).placed(monkeypatch)
    state = through_the_store(rng.capture())
    Devices().placed(monkeypatch)
    with pytest.raises(StateMismatchError, match=r"taken with 2 CUDA devices, .* sees 0"):
        rng.restore(state)


def test_versions_made_before_the_device_in_use_was_told_go_by_number(monkeypatch):
    Devices(10, 20, current=1).placed(monkeypatch)
    state = through_the_store(rng.capture())
    del state["cuda_current"]
    here = Devices(0, 0, 0, current=2).placed(monkeypatch)
    rng.restore(state)
    assert here.told == [10, 20, 0]
    Devices(0).placed(monkeypatch)
    with pytest.raises(StateMismatchError, match="CUDA devices"):
        rng.restore(state)


def test_streams_of_another_number_of_ranks_do_not_depend_on_the_devices_number(monkeypatch):
    lead = rng.capture()
    monkeypatch.setattr(rng, "_cuda_state", lambda _device, seed: torch.tensor(seed))
    found = []
    for current in (0, 2):
        Devices(1, 2, 3, current=current).placed(monkeypatch)
        found.append(rng.derive(lead, world_size=3, rank=1))
    assert found[0]["cuda_current"] == found[1]["cuda_current"]
    seeds = {int(seed) for seed in (*found[0]["cuda"], found[0]["cuda_current"])}
    assert len(seeds) == 4  # no two devices of a process draw the same


@pytest.mark.gpu
def test_cuda_generators_go_on_where_they_were():
    torch.randn(3, device="cuda")
    state = through_the_store(rng.capture())
    expected = torch.randn(5, device="cuda")
    rng.restore(state)
    assert torch.equal(torch.randn(5, device="cuda"), expected)
