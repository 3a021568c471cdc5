"""Ranks that wait for each other's shards are all answered, and a step that was lost can be gathered once more."""

from __future__ import annotations

import asyncio

import pytest

from ray_workers.gathering import Gathering
from ray_workers.store.memory import MemoryStore
from tests.ray_workers.test_checkpoint_manager import new_manager, report


@pytest.fixture
def manager():
    return new_manager(MemoryStore(), budget=3)


def shard(manager, rank):
    """A report of `rank` for step 10, as `decide` of `Gathering.answer`."""
    return lambda: report(manager, 10, rank)


async def waiting(gathering, manager, rank):
    """A rank whose shard is here and that waits for the others."""
    task = asyncio.create_task(gathering.answer(10, shard(manager, rank)))
    while not manager.waits_for(10):  # noqa: ASYNC110 - the manager knows no events
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # into its wait
    return task


def test_the_last_shard_answers_all(manager):
    async def play():
        gathering = Gathering(manager)
        first = await waiting(gathering, manager, 0)
        last = await gathering.answer(10, shard(manager, 1))
        return await first, last, await gathering.settle(0.01)

    first, last, settled = asyncio.run(play())
    assert (first.number, last.number, settled) == (1, 1, True)


def test_a_lost_step_answers_who_waits_and_is_gathered_anew(manager):
    async def play():
        gathering = Gathering(manager)
        first = await waiting(gathering, manager, 0)
        await gathering.answer(10, manager.lose, 10, 1, "it died")
        lost = await asyncio.wait_for(first, 60)
        again = await waiting(gathering, manager, 0)
        assert not await gathering.settle(0.01)
        last = await gathering.answer(10, shard(manager, 1))
        return lost, await asyncio.wait_for(again, 60), last

    lost, again, last = asyncio.run(play())
    assert (lost.number, again.number, last.number) == (None, 1, 1)
    assert "lost" in str(lost.reason)


def test_the_late_shard_of_a_lost_save_disturbs_no_rank_that_saves_again(manager):
    async def play():
        gathering = Gathering(manager)
        await gathering.answer(10, manager.lose, 10, 0, "it died")
        again = await waiting(gathering, manager, 0)
        late = await gathering.answer(10, shard(manager, 1))
        assert not again.done()
        last = await gathering.answer(10, shard(manager, 1))
        return late, await asyncio.wait_for(again, 60), last

    late, again, last = asyncio.run(play())
    assert (late.number, again.number, last.number) == (None, 1, 1)


def test_who_waits_too_long_gives_the_step_up(manager):
    async def play():
        return await Gathering(manager, timeout_s=0.05).answer(10, shard(manager, 0))

    outcome = asyncio.run(play())
    assert outcome.number is None
    assert "did not store their shards" in str(outcome.reason)


def test_a_version_answers_those_whose_save_it_overtook(manager):
    async def play():
        gathering = Gathering(manager)
        older = await waiting(gathering, manager, 0)
        both = [gathering.answer(20, lambda r=rank: report(manager, 20, r)) for rank in (0, 1)]
        await asyncio.gather(*both)
        return await asyncio.wait_for(older, 60), await gathering.settle(0.01)

    older, settled = asyncio.run(play())
    assert older.number is None
    assert "step 20 became a version before" in str(older.reason)
    assert settled
