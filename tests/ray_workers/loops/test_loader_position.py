"""What `session` relies on: torchdata's StatefulDataLoader comes back at any batch, in one order of calls and no other.

The order: `set_epoch` on the sampler, `load_state_dict` on a fresh loader, `iter`, then the random state, then `next`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.utils.data import DistributedSampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

SAMPLES, BATCH, EPOCHS = 21, 2, 2
BATCHES = {False: 6, True: 5}
"""Of an epoch of one of two ranks (11 samples each, one of them a repeat), by `drop_last`."""
every_kind = pytest.mark.parametrize("workers", [0, 2])


def make_loader(workers, *, drop_last=False):
    samples = TensorDataset(torch.arange(SAMPLES))
    sampler: DistributedSampler[Any] = DistributedSampler(samples, 2, rank=1, seed=7)
    return StatefulDataLoader(
        samples, batch_size=BATCH, sampler=sampler, num_workers=workers, drop_last=drop_last
    )


def values(batches):
    return [batch.tolist() for (batch,) in batches]


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return iter(loader)


def stop_after(loader, epoch, taken):
    """Train `epoch` whole epochs and `taken` batches; the state as a manifest would keep it."""
    for earlier in range(epoch):
        list(epoch_of(loader, earlier))
    batches = epoch_of(loader, epoch)
    for _ in range(taken):
        next(batches)
    return json.loads(json.dumps(loader.state_dict()))


@every_kind
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_a_fresh_loader_goes_on_after_any_batch(workers, drop_last, epoch):
    uninterrupted = make_loader(workers, drop_last=drop_last)
    whole = [values(epoch_of(uninterrupted, number)) for number in range(EPOCHS + 1)]
    assert len({str(order) for order in whole}) == EPOCHS + 1
    assert [len(order) for order in whole] == [BATCHES[drop_last]] * (EPOCHS + 1)
    for taken in range(1, BATCHES[drop_last] + 1):
        state = stop_after(make_loader(workers, drop_last=drop_last), epoch, taken)
        fresh = make_loader(workers, drop_last=drop_last)
        fresh.load_state_dict(state)
        assert values(epoch_of(fresh, epoch)) == whole[epoch][taken:]
        assert values(epoch_of(fresh, epoch + 1)) == whole[epoch + 1]


@every_kind
def test_a_state_survives_being_resumed_and_stopped_again(workers):
    whole = values(epoch_of(make_loader(workers), 0))
    first = stop_after(make_loader(workers), 0, 2)
    second = make_loader(workers)
    second.load_state_dict(first)
    next(epoch_of(second, 0))
    third = make_loader(workers)
    third.load_state_dict(second.state_dict())
    assert values(epoch_of(third, 0)) == whole[3:]


@every_kind
def test_making_an_iterator_draws_from_the_global_random_state_and_nothing_else_does(workers):
    loader = make_loader(workers)
    torch.manual_seed(0)
    batches = epoch_of(loader, 0)
    after_iter = torch.get_rng_state()
    torch.manual_seed(0)
    torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(after_iter, torch.get_rng_state())
    for taken, _ in enumerate(batches):
        assert torch.equal(torch.get_rng_state(), after_iter), taken
    loader.state_dict()
    assert torch.equal(torch.get_rng_state(), after_iter)


@every_kind
def test_a_restored_iterator_draws_too_so_the_random_state_is_set_after_it(workers):
    state = stop_after(make_loader(workers), 0, 2)
    fresh = make_loader(workers)
    fresh.load_state_dict(state)
    before = torch.get_rng_state()
    epoch_of(fresh, 0)
    assert not torch.equal(torch.get_rng_state(), before)


@every_kind
def test_trap_a_state_taken_after_the_end_of_an_epoch_begins_a_whole_one_and_draws_twice(workers):
    # So a position is kept inside the loop over an epoch; between epochs only the epoch's number is kept.
    loader = make_loader(workers)
    whole = values(epoch_of(loader, 0))
    fresh = make_loader(workers)
    fresh.load_state_dict(loader.state_dict())
    torch.manual_seed(0)
    assert values(epoch_of(fresh, 0)) == whole
    drawn = torch.get_rng_state()
    torch.manual_seed(0)
    for _ in range(2):
        torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(drawn, torch.get_rng_state())


@every_kind
def test_trap_asking_for_the_state_before_iterating_freezes_the_order_of_the_present_epoch(workers):
    wanted = values(epoch_of(make_loader(workers), 1))
    asked_early = make_loader(workers)
    asked_early.state_dict()
    assert values(epoch_of(asked_early, 1)) == values(epoch_of(make_loader(workers), 0))
    assert values(epoch_of(asked_early, 1)) == wanted


@every_kind
def test_trap_the_state_does_not_know_the_epoch(workers):
    state = stop_after(make_loader(workers), 1, 2)
    rest = values(epoch_of(make_loader(workers), 1))[2:]
    told, untold = make_loader(workers), make_loader(workers)
    told.load_state_dict(state)
    untold.load_state_dict(state)
    assert values(epoch_of(told, 1)) == rest
    assert values(epoch_of(untold, 0)) != rest


@pytest.mark.parametrize(("saved", "resumed"), [(0, 2), (2, 0), (2, 1), (1, 2)])
def test_trap_another_number_of_loader_workers_refuses_the_state_without_a_word(saved, resumed):
    state = stop_after(make_loader(saved), 0, 3)
    fresh = make_loader(resumed)
    fresh.load_state_dict(state)
    with pytest.raises(AssertionError):
        iter(fresh)
