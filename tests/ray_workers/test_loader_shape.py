"""A place in mid-epoch is taken up by the loader that it was kept of, and by no other one; between epochs any will do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers.data_position import DataPosition
from ray_workers.loader_shape import check_shape, shape_of
from ray_workers.sampling import GlobalBatches
from ray_workers.store.errors import StateMismatchError

KINDS = [DataLoader, StatefulDataLoader]


class Stream(IterableDataset[torch.Tensor]):
    """Nobody knows how long it is."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        yield from torch.arange(self.size)


class Unsized:
    def __len__(self):
        raise NotImplementedError


def data(size):
    return TensorDataset(torch.arange(size))


def made(kind, size, batch_size, **more):
    return kind(data(size), batch_size=batch_size, **more)


def dealing(kind, size, global_batch):
    batches = GlobalBatches(size, global_batch=global_batch, rank=0, world_size=1)
    return kind(data(size), batch_sampler=batches)


def stopped(loader, batches):
    position = DataPosition(loader)
    taking = position.epoch_batches(lambda: None)
    for _ in range(batches):
        next(taking)
    return copy.deepcopy(position.state())


def gone_on(loader, state):
    position = DataPosition(loader)
    position.load(state)
    return len(list(position.epoch_batches(lambda: None)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "batch_size", "sentence"),
    [
        (24, 4, "the batch size was 3 and is 4, the number of batches in an epoch was 8 and is 6"),
        (27, 3, "the number of samples in the data set was 24 and is 27, the number of batches in an epoch was 8 and is 9"),
        (23, 3, "the number of samples in the data set was 24 and is 23: the place"),
        (6, 3, "the number of samples in the data set was 24 and is 6"),
    ],
)  # fmt: skip
def test_in_mid_epoch_another_shape_is_refused_with_both_numbers(
    kind, workers, size, batch_size, sentence
):
    state = stopped(made(kind, 24, 3, num_workers=workers), 5)
    with pytest.raises(StateMismatchError, match=sentence):
        gone_on(made(kind, size, batch_size, num_workers=workers), state)
    assert gone_on(made(kind, 24, 3, num_workers=workers), state) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_end_of_an_epoch_it_may_change(kind):
    position = DataPosition(made(kind, 24, 3))
    list(position.epoch_batches(lambda: None))
    assert gone_on(made(kind, 40, 4), position.state()) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_global_batch_that_changed_is_refused_by_the_samples_alone(kind):
    """As in versions that were made before the shape was kept."""
    state = stopped(dealing(kind, 24, 4), 2)
    del state["shape"]
    with pytest.raises(StateMismatchError, match=r"2 global batches of 4 .* is 2 here"):
        gone_on(dealing(kind, 24, 2), state)
    assert gone_on(dealing(kind, 24, 4), state) == 4


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [data, Stream])
def test_data_that_ends_ahead_of_the_place_is_an_error_and_no_end_of_an_epoch(kind, workers, of):
    state = stopped(kind(of(24), batch_size=3, num_workers=workers), 5)
    state.pop("shape")
    with pytest.raises(
        StateMismatchError, match=r"after 5 batches .* gives (2 batches|fewer) here"
    ):
        gone_on(kind(of(6), batch_size=3, num_workers=workers), state)


def test_a_place_behind_the_last_batch_is_one():
    state = stopped(made(DataLoader, 24, 3), 8)
    assert gone_on(made(DataLoader, 24, 3), state) == 0


def test_what_is_not_known_is_no_difference():
    assert shape_of([1, 2]) == {"batches": 2}
    assert shape_of(None) == shape_of(Unsized()) == shape_of(iter([1])) == {}
    assert shape_of(DataLoader(Stream(24), batch_size=3)) == {"batch_size": 3}
    nested = DataLoader(data(24), batch_sampler=BatchSampler(range(24), 3, drop_last=False))
    assert shape_of(nested) == {"samples": 24, "batch_size": 3, "batches": 8}
    check_shape({"samples": 24}, {"batches": 8})
    check_shape({}, {"samples": 24})
