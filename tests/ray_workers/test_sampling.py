from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.data import DistributedSampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.data_position import DataPosition
from ray_workers.sampling import GlobalBatches
from ray_workers.store.errors import InvalidInputError, StateMismatchError

SIZE, GLOBAL = 50, 12


def batches(rank=0, world=1, **options: Any):
    return GlobalBatches(SIZE, global_batch=GLOBAL, rank=rank, world_size=world, **options)


def global_order(world, *, epoch=0, start=0):
    """The samples of every step, over all ranks, as a set: within a step their order does not matter."""
    shares = []
    for rank in range(world):
        mine = batches(rank, world)
        mine.set_epoch(epoch)
        mine.start_at(start)
        shares.append(list(mine))
    return [sorted(chain.from_iterable(step)) for step in zip(*shares, strict=True)]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
def test_every_number_of_workers_takes_the_same_steps(world):
    assert global_order(world) == global_order(1)
    assert global_order(world, start=24) == global_order(1)[2:]
    assert len(global_order(world)) == len(batches()) == SIZE // GLOBAL


def test_epochs_and_seeds_differ_and_no_seed_is_the_order_of_the_data():
    assert global_order(1, epoch=1) != global_order(1)
    assert list(batches(seed=9)) != list(batches())
    assert list(chain.from_iterable(batches(seed=None))) == list(range(48))


def test_it_deals_as_torchs_distributed_sampler_does():
    data = TensorDataset(torch.arange(48))
    for rank in range(2):
        theirs: Any = DistributedSampler(data, 2, rank, seed=3)
        theirs.set_epoch(4)
        ours = GlobalBatches(48, global_batch=12, rank=rank, world_size=2, seed=3)
        ours.set_epoch(4)
        assert list(chain.from_iterable(ours)) == list(theirs)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(InvalidInputError, match="cannot be divided evenly among 5 workers"):
        batches(0, 5)
    with pytest.raises(InvalidInputError, match="the data set has only 11"):
        GlobalBatches(11, global_batch=12, rank=0, world_size=1)


@pytest.mark.parametrize("samples", [1, -12, 60])
def test_a_position_that_is_no_step_of_the_epoch_is_refused(samples):
    with pytest.raises(StateMismatchError, match="no multiple of a global batch of 12"):
        batches().start_at(samples)


def loader_of(rank, world, workers):
    data = TensorDataset(torch.arange(SIZE))
    return StatefulDataLoader(data, batch_sampler=batches(rank, world), num_workers=workers)


def positions(world, workers):
    return [DataPosition(loader_of(rank, world, workers)) for rank in range(world)]


def take(position, count):
    steps = position.epoch_batches(lambda: None)
    return [next(steps)[0].tolist() for _ in range(count)]


def resharded(state):
    place = {name: state[name] for name in ("epoch", "batches", "samples")}
    return {**place, "loader": None, "resharded": True}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_position_moves_between_numbers_of_workers_and_is_exact_in_between(workers):
    expected = global_order(1)
    first = positions(4, workers)
    for position in first:
        take(position, 1)
    second = positions(2, workers)
    for position in second:
        position.load(resharded(first[0].state()))
    taken = [take(position, 1) for position in second]
    assert [sorted(taken[0][0] + taken[1][0])] == expected[1:2]
    # Two workers stop here and go on: an ordinary, exact resume from a position that was itself moved.
    again = positions(2, workers)
    for position, state in zip(again, [p.state() for p in second], strict=True):
        position.load(copy.deepcopy(state))
    rest = [take(position, 2) for position in again]
    assert [sorted(a + b) for a, b in zip(*rest, strict=True)] == expected[2:]
    assert again[0].at_last_batch()


def test_at_the_end_of_an_epoch_any_loader_can_be_resharded():
    whole = DataPosition([1, 2, 3])
    list(whole.epoch_batches(lambda: None))
    other = DataPosition([7, 8])
    other.load(resharded(whole.state()))
    assert list(other.epoch_batches(lambda: None)) == [7, 8]
    assert other.epoch == 2


def test_in_mid_epoch_a_loader_without_a_global_order_cannot():
    whole = DataPosition([1, 2, 3])
    next(whole.epoch_batches(lambda: None))
    with pytest.raises(StateMismatchError, match="GlobalBatches"):
        DataPosition([1, 2, 3]).load(resharded(whole.state()))
