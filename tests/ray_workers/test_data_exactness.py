"""What is said of a loader at the start is what happens to it: every kind is stopped in mid-epoch and continued."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from ray_workers import rng
from ray_workers.data_exactness import announce_loader, look_at_loader
from ray_workers.data_position import DataPosition
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.sampling import GlobalBatches
from ray_workers.store.errors import InvalidInputError

DATA = TensorDataset(torch.arange(12))
EPOCHS, STOP_EPOCH, TAKEN = 3, 1, 2


class OwnOrder(Sampler[int]):
    """A user's own, that says nothing of its order, which hangs on an object that begins anew."""

    def __init__(self):
        self.draw = torch.Generator().manual_seed(1)

    def __len__(self):
        return 12

    def __iter__(self):
        yield from torch.randperm(12, generator=self.draw).tolist()


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self):
        yield from torch.arange(12)


def batches(kind, **more):
    return kind(DATA, batch_size=3, **more)


def dealt():
    return GlobalBatches(12, global_batch=3, rank=0, world_size=1, seed=2)


LOADERS = {
    "stateful, in order": (lambda: batches(StatefulDataLoader), None),
    "stateful, shuffled": (lambda: batches(StatefulDataLoader, shuffle=True), None),
    "stateful, distributed": (lambda: batches(StatefulDataLoader, sampler=DistributedSampler(DATA, 1, 0, seed=3)), None),
    "stateful, dealt": (lambda: StatefulDataLoader(DATA, batch_sampler=dealt()), None),
    "stateful, a stream": (lambda: StatefulDataLoader(Stream(), batch_size=3), None),
    "stateful, torch's random sampler": (lambda: batches(StatefulDataLoader, sampler=RandomSampler(DATA)), "inexact"),
    "stateful, weighted": (
        lambda: batches(StatefulDataLoader, sampler=WeightedRandomSampler([1.0] * 12, 12)), "inexact",
    ),
    "stateful, own order": (lambda: batches(StatefulDataLoader, sampler=OwnOrder()), "inexact"),
    "plain, in order": (lambda: batches(DataLoader), "replayed"),
    "plain, distributed": (lambda: batches(DataLoader, sampler=DistributedSampler(DATA, 1, 0, seed=3)), "replayed"),
    "plain, dealt": (lambda: DataLoader(DATA, batch_sampler=dealt()), "replayed"),
    "plain, a stream": (lambda: DataLoader(Stream(), batch_size=3), "replayed"),
    "plain, shuffled": (lambda: batches(DataLoader, shuffle=True), "inexact"),
    "plain, a random subset": (lambda: batches(DataLoader, sampler=SubsetRandomSampler(range(12))), "inexact"),
    "plain, own order": (lambda: batches(DataLoader, sampler=OwnOrder()), "inexact"),
    "a list": (lambda: [[1, 2], [3, 4], [5, 6], [7, 8]], "replayed"),
}  # fmt: skip


def taken(position, random_state=None):
    """Batches until the end, as a session takes them."""
    found = []
    while position.epoch < EPOCHS:
        for batch in position.epoch_batches(lambda: rng.restore(random_state)):
            found.append(
                torch.as_tensor(batch[0] if isinstance(batch, list | tuple) else batch).tolist()
            )
            torch.rand(1)  # as dropout draws
            yield found


def stopped_and_continued(make):
    """All batches of an uninterrupted run, and those of one that was stopped in the middle of its second epoch."""
    torch.manual_seed(5)
    *_, whole = taken(DataPosition(make()))
    torch.manual_seed(5)
    first = DataPosition(make())
    for seen in taken(first):
        if first.epoch == STOP_EPOCH and len(seen) % 4 == TAKEN:
            break
    state, random_state = copy.deepcopy(first.state()), rng.capture()
    before = list(seen)
    torch.manual_seed(99)  # a new process
    second = DataPosition(make())
    second.load(state)
    *_, after = taken(second, random_state)
    return whole, before + after


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_said_is_what_happens(name):
    make, expected = LOADERS[name]
    finding = look_at_loader(make())
    assert (finding.level if finding else None) == expected
    whole, continued = stopped_and_continued(make)
    if expected == "inexact":
        assert continued != whole
    else:
        assert continued == whole


def test_what_has_no_place_to_come_back_to_is_refused_if_saves_in_mid_epoch_are_asked_for():
    for thresholds in (SaveThresholds(every_steps=5), SaveThresholds(every_seconds=60.0)):
        with pytest.raises(InvalidInputError, match="is an iterator, which begins only once"):
            announce_loader(iter([1, 2]), thresholds, rank=0)
    announce_loader(iter([1, 2]), SaveThresholds(every_epochs=1), rank=0)


def test_a_shard_of_ray_data_is_refused_too():
    shard = type("_Batches", (), {"__module__": "ray.data.iterator"})()
    with pytest.raises(InvalidInputError, match="Ray Data shard"):
        announce_loader(shard, SaveThresholds(every_steps=5), rank=0)


@pytest.mark.ray
@pytest.mark.slow
def test_what_ray_data_hands_out_is_known_for_what_it_is():
    import ray.data  # noqa: PLC0415 - takes seconds, and a cluster

    try:
        (shard,) = ray.data.range(12).streaming_split(1)
        for loader in (shard, shard.iter_torch_batches(batch_size=3), shard.iter_batches()):
            finding = look_at_loader(loader)
            assert finding is not None
            assert finding.level == "lost"
            assert "Ray Data" in finding.sentence
    finally:
        ray.shutdown()


def test_it_is_said_once_by_rank_0(caplog):
    with caplog.at_level(logging.INFO, logger="pawl"):
        for rank in (1, 0):
            announce_loader(batches(DataLoader, shuffle=True), SaveThresholds(), rank=rank)
            announce_loader(batches(DataLoader), SaveThresholds(), rank=rank)
        announce_loader(batches(StatefulDataLoader), SaveThresholds(), rank=0)
        announce_loader(None, SaveThresholds(), rank=0)
    told = [(record.levelno, "RandomSampler draws" in record.message) for record in caplog.records]
    assert told == [(logging.WARNING, True), (logging.INFO, False)]
