from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from ray_workers import rng
from ray_workers.loops.seeding import seed_worker
from ray_workers.resharding import check_worker_count, reshard, sources
from ray_workers.store.errors import StateMismatchError


def state(samples=24, series="a"):
    seed_worker(1)
    return {
        "rng": rng.capture(),
        "data": {"epoch": 1, "batches": 2, "samples": samples, "loader": {"x": 1}},
        "series": series,
    }


def draws(rank, world, lead=None):
    rng.restore(reshard(lead or state(), state(), rank=rank, world_size=world)["rng"])
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.getrandbits(60)


def test_new_streams_are_the_same_every_time_and_differ_by_rank_world_and_version():
    assert draws(0, 3) == draws(0, 3)
    other = state()
    seed_worker(2)
    other["rng"] = rng.capture()
    found = [draws(0, 3), draws(1, 3), draws(0, 2), draws(0, 3, other)]
    for index, drawn in enumerate(zip(*found, strict=True)):
        assert len({str(value) for value in drawn}) == len(found), index


def test_the_position_is_that_of_all_ranks_and_the_series_that_of_the_old_rank():
    moved = reshard(state(), state(series="b"), rank=1, world_size=3)
    assert moved["data"] == {
        "epoch": 1, "batches": 2, "samples": 24, "shape": {}, "loader": None, "resharded": True,
    }  # fmt: skip
    assert moved["series"] == "b"
    assert [sources(rank, 2) for rank in range(4)] == [(0, 0), (0, 1), (0, 0), (0, 0)]


def test_ranks_at_different_places_cannot_be_brought_together():
    with pytest.raises(StateMismatchError, match="stood at different places"):
        reshard(state(), state(samples=36), rank=1, world_size=3)


def test_the_rule():
    check_worker_count(4, 4, "refuse")
    check_worker_count(4, 2, "reshard")
    with pytest.raises(StateMismatchError, match="on_changed_workers = 'reshard'"):
        check_worker_count(4, 2, "refuse")
