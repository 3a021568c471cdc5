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


def test_more_cuda_devices_than_here():
    state = {
        **rng.capture(),
        "cuda": [torch.zeros(16, dtype=torch.uint8)] * (torch.cuda.device_count() + 1),
    }
    with pytest.raises(StateMismatchError, match="CUDA devices"):
        rng.restore(state)


@pytest.mark.gpu
def test_cuda_generators_go_on_where_they_were():
    torch.randn(3, device="cuda")
    state = through_the_store(rng.capture())
    expected = torch.randn(5, device="cuda")
    rng.restore(state)
    assert torch.equal(torch.randn(5, device="cuda"), expected)
