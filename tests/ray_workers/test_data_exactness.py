"""What is said of a loader at the start is what happens to it: every kind is stopped and continued, in mid-epoch and between epochs."""

from __future__ import annotations

import copy
import logging
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
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
from torchdata.stateful_dataloader.sampler import RandomSampler as TorchdataSampler

from ray_workers import loader_generators, rng
from ray_workers.data_exactness import announce_loader, look_at_loader
from ray_workers.data_position import DataPosition
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.sampling import GlobalBatches
from ray_workers.state_tree import split
from ray_workers.store.errors import InvalidInputError, StateMismatchError

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


class Marked(Sampler[int]):
    """In order, with a state."""

    def __init__(self):
        self.at = self.start = 0

    def __len__(self):
        return 12

    def __iter__(self):
        start, self.start = self.start, 0
        for self.at in range(start, 12):
            yield self.at

    def state_dict(self):
        return {"next": self.at + 1}

    def load_state_dict(self, state):
        self.start = state["next"]


class Reordered(TensorDataset):
    """Deals its samples in another order in every epoch that it is told of."""

    told: tuple[int, ...] = ()

    def __getitem__(self, index):
        epoch = self.told[-1] if self.told else 0
        order = torch.randperm(12, generator=torch.Generator().manual_seed(epoch))
        return super().__getitem__(order[index])

    def set_epoch(self, epoch):
        self.told = (*self.told, epoch)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class ReorderedStream(IterableDataset[torch.Tensor]):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from torch.randperm(12, generator=torch.Generator().manual_seed(self.epoch))


def drawn_everywhere():
    """From each generator that torch seeds in a worker, and that is there in the process itself."""
    return torch.rand(1).item() + random.random() + np.random.random()  # noqa: S311


class Augmented(TensorDataset):
    def __getitem__(self, index):
        return super().__getitem__(index)[0] + drawn_everywhere()


class AugmentedStream(IterableDataset[torch.Tensor]):
    """In a drawn order, and changed at random."""

    def __iter__(self):
        for sample in torch.randperm(12).tolist():
            yield torch.tensor(sample + drawn_everywhere())


class Counting(IterableDataset[torch.Tensor]):
    """Changed at random, and comes to its place without that."""

    at = 0

    def __iter__(self):
        start, self.at = self.at, 0
        for self.at in range(start, 12):
            yield torch.tensor(self.at + drawn_everywhere())
        self.at = 0

    def state_dict(self):
        return {"next": self.at + 1}

    def load_state_dict(self, state):
        self.at = state["next"]


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self):
        yield from torch.arange(12)


def batches(kind, **more):
    return kind(DATA, batch_size=3, **more)


def seeded():
    return torch.Generator().manual_seed(7)


def drawn(kind, *, loader_too=False, **more):
    """Torch's sampler with a generator of its own, or the loader's."""
    draw = seeded()
    sampler = RandomSampler(DATA, generator=draw)
    return batches(kind, sampler=sampler, generator=draw if loader_too else None, **more)


def nested():
    """The sampler that goes by the epoch stands where the loader has none of its own."""
    return BatchSampler(DistributedSampler(DATA, 1, 0, seed=3), 3, drop_last=False)


def reordered():
    return Reordered(torch.arange(12))


def dealt():
    return GlobalBatches(12, global_batch=3, rank=0, world_size=1, seed=2)


LOADERS = {
    "stateful, in order": (lambda: batches(StatefulDataLoader), None),
    "stateful, shuffled": (lambda: batches(StatefulDataLoader, shuffle=True), None),
    "stateful, distributed": (lambda: batches(StatefulDataLoader, sampler=DistributedSampler(DATA, 1, 0, seed=3)), None),
    "stateful, dealt": (lambda: StatefulDataLoader(DATA, batch_sampler=dealt()), None),
    "stateful, a stream": (lambda: StatefulDataLoader(Stream(), batch_size=3), None),
    "stateful, torch's random sampler": (lambda: batches(StatefulDataLoader, sampler=RandomSampler(DATA)), None),
    "stateful, weighted": (
        lambda: batches(StatefulDataLoader, sampler=WeightedRandomSampler([1.0] * 12, 12)), None,
    ),
    "stateful, own order": (lambda: batches(StatefulDataLoader, sampler=OwnOrder()), "inexact"),
    "plain, in order": (lambda: batches(DataLoader), "replayed"),
    "plain, distributed": (lambda: batches(DataLoader, sampler=DistributedSampler(DATA, 1, 0, seed=3)), "replayed"),
    "plain, dealt": (lambda: DataLoader(DATA, batch_sampler=dealt()), "replayed"),
    "plain, a stream": (lambda: DataLoader(Stream(), batch_size=3), "replayed"),
    "plain, shuffled": (lambda: batches(DataLoader, shuffle=True), "replayed"),
    "plain, a random subset": (lambda: batches(DataLoader, sampler=SubsetRandomSampler(range(12))), "replayed"),
    "plain, own order": (lambda: batches(DataLoader, sampler=OwnOrder()), "inexact"),
    "stateful, torch's own generator": (lambda: drawn(StatefulDataLoader), None),
    "stateful, one generator": (lambda: batches(StatefulDataLoader, shuffle=True, generator=seeded()), None),
    "stateful, one generator for torch's": (lambda: drawn(StatefulDataLoader, loader_too=True), None),
    "stateful, marked": (lambda: batches(StatefulDataLoader, sampler=Marked()), "carrying"),
    "plain, one generator": (lambda: batches(DataLoader, shuffle=True, generator=seeded()), "replayed"),
    "plain, torchdata's sampler": (
        lambda: batches(DataLoader, sampler=TorchdataSampler(DATA, generator=seeded())), "replayed",
    ),
    "plain, weighted, own generator": (
        lambda: batches(DataLoader, sampler=WeightedRandomSampler([1.0] * 12, 12, generator=seeded())), "replayed",
    ),
    "plain, marked": (lambda: batches(DataLoader, sampler=Marked()), "carrying"),
    "stateful, nested": (lambda: StatefulDataLoader(DATA, batch_sampler=nested()), None),
    "plain, nested": (lambda: DataLoader(DATA, batch_sampler=nested()), "replayed"),
    "stateful, told data": (lambda: StatefulDataLoader(reordered(), batch_size=3), None),
    "plain, told data": (lambda: DataLoader(reordered(), batch_size=3), "replayed"),
    "stateful, a told stream": (lambda: StatefulDataLoader(ReorderedStream(), batch_size=3), None),
    "plain, a told stream": (lambda: DataLoader(ReorderedStream(), batch_size=3), "replayed"),
    "a list": (lambda: [[1, 2], [3, 4], [5, 6], [7, 8]], "replayed"),
}  # fmt: skip


WORKERS = {
    "stateful, shuffled": (lambda **more: batches(StatefulDataLoader, shuffle=True, **more), "hidden"),
    "stateful, one generator": (
        lambda **more: batches(StatefulDataLoader, shuffle=True, generator=seeded(), **more), "hidden",
    ),
    "stateful, torch's own generator": (lambda **more: drawn(StatefulDataLoader, **more), "hidden"),
    "plain, in order": (lambda **more: batches(DataLoader, **more), "replayed"),
    "plain, shuffled": (lambda **more: batches(DataLoader, shuffle=True, **more), "replayed"),
    "plain, a random subset": (
        lambda **more: batches(DataLoader, sampler=SubsetRandomSampler(range(12)), **more), "replayed",
    ),
    "plain, one generator": (lambda **more: batches(DataLoader, shuffle=True, generator=seeded(), **more), "replayed"),
    "stateful, a stream": (lambda **more: StatefulDataLoader(Stream(), batch_size=3, **more), None),
    "plain, a stream": (lambda **more: DataLoader(Stream(), batch_size=3, **more), "replayed"),
    "stateful, nested": (lambda **more: StatefulDataLoader(DATA, batch_sampler=nested(), **more), "hidden"),
}  # fmt: skip


def seed(number):
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def taken(position, random_state=None):
    """Batches until the end, as a session takes them."""
    found: list[Any] = []
    while position.epoch < EPOCHS:
        for batch in position.epoch_batches(lambda: rng.restore(random_state)):
            found.append(
                torch.as_tensor(batch[0] if isinstance(batch, list | tuple) else batch).tolist()
            )
            found[-1] = (found[-1], torch.rand(1).item())  # as dropout draws
            yield found
        yield found  # the end of an epoch


def stopped_and_continued(make, taken_of_epoch=TAKEN):
    """All batches of an uninterrupted run, and those of one that was stopped in its second epoch, or ahead of it.

    Beside each batch stands what the training drew.
    """
    seed(5)
    *_, whole = taken(DataPosition(make()))
    seed(5)
    first = DataPosition(make())
    before = []
    for seen in taken(first):
        if first.epoch == STOP_EPOCH and len(seen) % 4 == taken_of_epoch:
            before = list(seen)
            break
    state, random_state = copy.deepcopy(first.state()), rng.capture()
    assert state["batches"] == taken_of_epoch
    seed(99)  # a new process
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


@pytest.mark.parametrize("name", [name for name in LOADERS if "own order" not in name])
def test_at_the_end_of_an_epoch_all_go_on_exactly(name):
    make, _ = LOADERS[name]
    whole, continued = stopped_and_continued(make, 0)
    assert continued == whole


@pytest.mark.parametrize("name", [name for name in LOADERS if "own order" in name])
def test_an_order_that_nobody_can_see_begins_anew_at_the_end_of_an_epoch_and_that_is_said(name):
    make, _ = LOADERS[name]
    finding = look_at_loader(make())
    assert finding is not None
    assert "at the end of an epoch neither" in finding.sentence
    whole, continued = stopped_and_continued(make, 0)
    assert continued != whole


BY_EPOCH = [name for name in LOADERS if name.endswith(("nested", "told data", "told stream"))]


@pytest.mark.parametrize("name", BY_EPOCH)
def test_what_goes_by_the_epoch_has_another_order_in_each(name):
    *_, whole = taken(DataPosition(LOADERS[name][0]()))
    orders = [str([batch for batch, _ in whole[4 * e : 4 * e + 4]]) for e in range(EPOCHS)]
    assert len(set(orders)) == EPOCHS


def test_each_is_told_of_an_epoch_once():
    data = reordered()
    list(taken(DataPosition(DataLoader(data, sampler=data))))  # type: ignore[arg-type]
    assert data.told == (0, 1, 2)


@pytest.mark.parametrize("persistent", [False, True], ids=["workers", "persistent workers"])
@pytest.mark.parametrize("name", WORKERS)
def test_so_do_loaders_with_workers(name, persistent):
    make, expected = WORKERS[name]

    def made():
        return make(num_workers=1, prefetch_factor=1, persistent_workers=persistent)

    finding = look_at_loader(made())
    assert (finding.level if finding else None) == ("hidden" if persistent else expected)
    for taken_of_epoch in (0, TAKEN):
        whole, continued = stopped_and_continued(made, taken_of_epoch)
        assert continued == whole


def no_generator_too(**more):
    return batches(StatefulDataLoader, sampler=RandomSampler(DATA), **more)


def one_generator_for_torchs(**more):
    return drawn(StatefulDataLoader, loader_too=True, **more)


@pytest.mark.parametrize("make", [no_generator_too, one_generator_for_torchs])
def test_the_one_order_that_persistent_workers_spoil_is_said(make):
    def made():
        return make(num_workers=1, prefetch_factor=1, persistent_workers=True)

    finding = look_at_loader(made())
    assert finding is not None
    assert finding.level == "inexact"
    for taken_of_epoch in (0, TAKEN):
        whole, continued = stopped_and_continued(made, taken_of_epoch)
        assert (continued == whole) == (not taken_of_epoch)


def augmented(kind, **more):
    return kind(Augmented(torch.arange(12.0)), batch_size=3, shuffle=True, **more)


def streamed(kind, data, **more):
    return kind(data, batch_size=3, **more)


AUGMENTED = {
    "plain": (lambda **more: augmented(DataLoader, **more), "replayed"),
    "plain, a stream": (lambda **more: streamed(DataLoader, AugmentedStream(), **more), "replayed"),
    "stateful": (lambda **more: augmented(StatefulDataLoader, **more), "hidden"),
    "stateful, a stream": (lambda **more: streamed(StatefulDataLoader, AugmentedStream(), **more), None),
    "stateful, a marked stream": (lambda **more: streamed(StatefulDataLoader, Counting(), **more), "hidden"),
}  # fmt: skip


@pytest.mark.parametrize("name", AUGMENTED)
def test_augmentation_in_the_process_itself_goes_on_exactly(name):
    make, _ = AUGMENTED[name]
    for taken_of_epoch in (0, TAKEN):
        whole, continued = stopped_and_continued(make, taken_of_epoch)
        assert continued == whole


@pytest.mark.parametrize("name", AUGMENTED)
def test_augmentation_in_workers_goes_on_exactly_or_it_is_said_that_it_does_not(name):
    make, expected = AUGMENTED[name]

    def made():
        return make(num_workers=2)

    finding = look_at_loader(made())
    assert (finding.level if finding else None) == expected
    for taken_of_epoch in (0, TAKEN):
        whole, continued = stopped_and_continued(made, taken_of_epoch)
        assert (continued == whole) == (expected != "hidden" or not taken_of_epoch)


@pytest.mark.parametrize("name", AUGMENTED)
def test_augmentation_in_workers_that_persist_does_not_go_on_and_that_is_said(name):
    def made():
        return AUGMENTED[name][0](num_workers=1, persistent_workers=True)

    finding = look_at_loader(made())
    assert finding is not None
    assert finding.level == "hidden"
    assert "live on from epoch to epoch" in finding.sentence
    for taken_of_epoch in (0, TAKEN):
        whole, continued = stopped_and_continued(made, taken_of_epoch)
        assert continued != whole


class Buffered(IterableDataset[torch.Tensor]):
    """Shuffles as it goes."""

    def __iter__(self):
        held: list[int] = []
        for sample in range(12):
            held.append(sample)
            if len(held) > 6:
                yield torch.tensor(held.pop(int(torch.randint(len(held), ()))))
        yield from torch.tensor(held)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
def test_a_buffer_in_the_process_itself_draws_between_what_training_draws_and_is_not_exact(
    kind, workers
):
    """As `docs/guarantees.md` says; nothing shows it at the start."""
    whole, continued = stopped_and_continued(
        lambda: streamed(kind, Buffered(), num_workers=workers)
    )
    assert (continued == whole) == (workers > 0)


def test_the_states_in_which_an_epoch_began_are_a_few_kilobytes():
    position = DataPosition(batches(DataLoader, shuffle=True))
    next(position.epoch_batches(lambda: None))
    tensors = split({"random": position.state()["random"]}, prefix="data").tensors
    assert sum(tensor.nbytes for tensor in tensors.values()) < 11_000


def test_a_version_without_the_state_in_which_its_epoch_began_still_resumes_and_that_is_said(
    caplog,
):
    position = DataPosition(batches(DataLoader, shuffle=True))
    next(position.epoch_batches(lambda: None))
    state = position.state()
    del state["random"]
    for _ in range(2):  # a version made of it lacks the state too
        position = DataPosition(batches(DataLoader, shuffle=True))
        caplog.clear()
        position.load(state)
        assert "does not hold the random state in which its epoch began" in caplog.text
        next(position.epoch_batches(lambda: None))
        state = position.state()
    assert state["random"] is None


@pytest.mark.parametrize("own", [True, False])
def test_a_second_stop_in_the_same_epoch_is_exact_too(own):
    def made():
        return batches(DataLoader, shuffle=True, generator=seeded() if own else None)

    seed(5)
    *_, whole = taken(DataPosition(made()))
    seed(5)
    position, random_state, before = DataPosition(made()), None, []
    for count in (5, 2):  # batches 5 and 7 of 12; the epoch's are 5 to 8
        for seen in taken(position, random_state):
            if len(seen) == count:
                before += seen
                break
        state, random_state = copy.deepcopy(position.state()), rng.capture()
        seed(99)
        position = DataPosition(made())
        position.load(state)
    *_, after = taken(position, random_state)
    assert before + after == whole


def test_a_version_without_the_generators_still_resumes_and_that_is_said(caplog):
    for resharded, why in ((False, "by a Pawl that did not"), (True, "another number of workers")):
        state = {"epoch": 1, "batches": 0, "samples": None, "loader": None}
        position = DataPosition(batches(StatefulDataLoader, shuffle=True, generator=seeded()))
        caplog.clear()
        position.load({**state, "resharded": resharded})
        assert why in caplog.text
        assert len(list(position.epoch_batches(lambda: None))) == 4


def test_a_generator_of_another_kind_is_refused():
    loader = batches(DataLoader, shuffle=True, generator=seeded())
    with pytest.raises(StateMismatchError, match="the loader's random generator"):
        loader_generators.restore(loader, {"loader": torch.zeros(16, dtype=torch.uint8)})


def test_what_has_no_place_to_come_back_to_is_refused_if_saves_in_mid_epoch_are_asked_for():
    for thresholds in (SaveThresholds(every_steps=5), SaveThresholds(every_seconds=60.0)):
        with pytest.raises(InvalidInputError, match="is an iterator, which begins only once"):
            announce_loader(iter([1, 2]), thresholds, rank=0)
    with pytest.raises(InvalidInputError, match="interval = 'fixed'"):
        announce_loader(iter([1, 2]), SaveThresholds(every_epochs=1), rank=0, paced=True)
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
            announce_loader(batches(StatefulDataLoader, num_workers=1), SaveThresholds(), rank=rank)
            announce_loader(batches(DataLoader), SaveThresholds(), rank=rank)
        announce_loader(batches(StatefulDataLoader), SaveThresholds(), rank=0)
        announce_loader(None, SaveThresholds(), rank=0)
    told = [(record.levelno, "do not load again" in record.message) for record in caplog.records]
    assert told == [(logging.WARNING, True), (logging.INFO, False)]
