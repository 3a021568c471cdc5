"""Ranks that wait for each other's shards are all answered, and a step that was lost can be gathered once more."""

from __future__ import annotations

import asyncio
import time

import pytest

from ray_workers.gathering import Gathering
from ray_workers.store.memory import MemoryStore
from tests.ray_workers.test_checkpoint_manager import made_report, new_manager, save


@pytest.fixture
def manager():
    return new_manager(MemoryStore(), budget=3)


async def waiting(gathering, manager, rank, number=0):
    """A rank whose shard is here and that waits for the others."""
    report = made_report(manager, 10, rank, number=number)
    task = asyncio.create_task(gathering.gather(report))
    while not manager.busy():  # noqa: ASYNC110 - the manager knows no events
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # into its wait
    return task


def test_the_last_shard_answers_all(manager):
    async def play():
        gathering = Gathering(manager)
        first = await waiting(gathering, manager, 0)
        last = await gathering.gather(made_report(manager, 10, 1))
        return await first, last, await gathering.settle(0.01)

    first, last, settled = asyncio.run(play())
    assert (first.number, last.number, settled) == (1, 1, True)


def test_a_lost_step_answers_who_waits_and_is_gathered_anew(manager):
    async def play():
        gathering = Gathering(manager)
        first = await waiting(gathering, manager, 0)
        await gathering.answer(save(10), manager.lose, save(10), "it was lost")
        lost = await asyncio.wait_for(first, 60)
        again = await waiting(gathering, manager, 0, number=1)
        gathering.begin(save(10, 1), 1)
        assert not await gathering.settle(0.01)
        last = await gathering.gather(made_report(manager, 10, 1, number=1))
        return lost, await asyncio.wait_for(again, 60), last

    lost, again, last = asyncio.run(play())
    assert (lost.number, again.number, last.number) == (None, 1, 1)
    assert "lost" in str(lost.reason)


def test_the_late_shard_of_a_lost_save_disturbs_no_rank_that_saves_again(manager):
    async def play():
        gathering = Gathering(manager)
        await gathering.answer(save(10), manager.lose, save(10), "it died")
        again = await waiting(gathering, manager, 0, number=1)
        late = await gathering.gather(made_report(manager, 10, 1))
        assert not again.done()
        last = await gathering.gather(made_report(manager, 10, 1, number=1))
        return late, await asyncio.wait_for(again, 60), last

    late, again, last = asyncio.run(play())
    assert (late.number, again.number, last.number) == (None, 1, 1)


def test_news_of_a_loss_that_comes_late_disturbs_no_save_of_the_same_step(manager):
    async def play():
        gathering = Gathering(manager)
        again = await waiting(gathering, manager, 0, number=1)
        await gathering.answer(save(10), manager.lose, save(10), "it died")
        last = await gathering.gather(made_report(manager, 10, 1, number=1))
        return await asyncio.wait_for(again, 60), last

    again, last = asyncio.run(play())
    assert (again.number, last.number) == (1, 1)


def test_who_waits_too_long_gives_the_step_up(manager):
    async def play():
        return await Gathering(manager, patience_s=0.05).gather(made_report(manager, 10, 0))

    outcome = asyncio.run(play())
    assert outcome.number is None
    assert "did not store their shards" in str(outcome.reason)


def test_a_shard_that_is_on_its_way_is_waited_for_as_long_as_it_takes(manager):
    async def play():
        gathering = Gathering(manager, patience_s=0.2)
        first = await waiting(gathering, manager, 0)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:  # five times as long as anyone waits for nothing
            gathering.begin(save(10), 1)
            await asyncio.sleep(0.02)
        assert not first.done()
        last = await gathering.gather(made_report(manager, 10, 1))
        return await asyncio.wait_for(first, 60), last

    first, last = asyncio.run(play())
    assert (first.number, last.number) == (1, 1)


def test_one_of_which_nothing_more_is_heard_is_not_waited_for_for_ever(manager):
    async def play():
        gathering = Gathering(manager, patience_s=0.05)
        gathering.begin(save(10), 1)  # its agent stands still, or does not come back
        return await asyncio.wait_for(gathering.gather(made_report(manager, 10, 0)), 60)

    assert asyncio.run(play()).number is None


def test_the_end_waits_for_shards_that_are_still_being_stored(manager):
    async def play():
        gathering = Gathering(manager)
        gathering.begin(save(10), 0)
        gathering.begin(save(10), 1)
        assert not await gathering.settle(0.01)
        settling = asyncio.create_task(gathering.settle(60))
        reports = [made_report(manager, 10, rank) for rank in (0, 1)]
        await asyncio.gather(*(gathering.gather(report) for report in reports))
        return await settling

    assert asyncio.run(play())
    assert manager.outcome(save(10)).number == 1


def test_the_end_does_not_wait_for_what_cannot_come(manager):
    async def play():
        gathering = Gathering(manager)
        await waiting(gathering, manager, 0)  # the other rank died before it handed its shard over
        return await gathering.settle(0.01)

    assert asyncio.run(play())


def test_a_shard_that_is_here_is_on_its_way_no_more_whatever_is_heard_late(manager):
    async def play():
        gathering = Gathering(manager)
        await waiting(gathering, manager, 0)
        gathering.begin(save(10), 0)
        return await gathering.settle(0.01)

    assert asyncio.run(play())


def test_a_version_answers_those_whose_save_it_overtook(manager):
    async def play():
        gathering = Gathering(manager)
        older = await waiting(gathering, manager, 0)
        both = [gathering.gather(made_report(manager, 20, rank)) for rank in (0, 1)]
        await asyncio.gather(*both)
        return await asyncio.wait_for(older, 60), await gathering.settle(0.01)

    older, settled = asyncio.run(play())
    assert older.number is None
    assert "step 20 became a version before" in str(older.reason)
    assert settled
