"""Ranks that wait for each other's shards: each asks once, and is answered when the save is settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.messages import SaveId, ShardReport, VersionOutcome

__all__ = ["Gathering"]

_PATIENCE_S = 600.0


@dataclass(slots=True)
class _Open:
    """A save that is not settled."""

    settled: asyncio.Event = field(default_factory=asyncio.Event)
    on_the_way: dict[int, float] = field(default_factory=dict)
    """Ranks whose shards are being stored, or whose reports are being taken in; and when that was last heard."""
    here: set[int] = field(default_factory=set)
    """Ranks whose reports were taken in."""

    def heard_within(self, seconds: float) -> bool:
        """Whether anything is on the way, as far as was heard in so many seconds."""
        return any(time.monotonic() - at < seconds for at in self.on_the_way.values())


class Gathering:
    """The asynchronous side of one coordinator.

    Args:
        manager: decides; called on other threads.
        patience_s: seconds that a rank waits for others without hearing that a shard is on its way; then the save is given
            up. One that is on its way is waited for, however slow the store: its tries are counted where it is stored.
            What ends by nothing else is a rank that stands still before it hands its shard over, an agent that stands
            still or does not come back, and a message that was lost.
    """

    def __init__(self, manager: CheckpointManager, *, patience_s: float = _PATIENCE_S) -> None:
        self._manager = manager
        self._patience_s = patience_s
        self._open: dict[SaveId, _Open] = {}
        self._arrived = asyncio.Condition()

    def begin(self, save: SaveId, rank: int) -> None:
        """The shard of `rank` is on its way; said again and again while it is."""
        if self._manager.outcome(save) is None:
            open_save = self._open.setdefault(save, _Open())
            if rank not in open_save.here:
                open_save.on_the_way[rank] = time.monotonic()

    async def gather(self, report: ShardReport) -> VersionOutcome:
        """Take a durable shard; answers when its save is settled."""
        save, rank = report.staged.save, report.staged.rank
        self.begin(save, rank)
        return await self.answer(save, self._manager.gather, report, rank=rank)

    async def answer(
        self,
        save: SaveId,
        decide: Callable[..., VersionOutcome | None],
        *arguments: object,
        rank: int | None = None,
    ) -> VersionOutcome:
        """What `decide` says of `save`; while that is open, what a later message settles.

        Args:
            save: the save.
            decide: one of the manager's methods.
            arguments: its.
            rank: whose shard it takes in, if it does.
        """
        # Taken before the decision: another rank's may come in between, and settle the save.
        open_save = self._open.setdefault(save, _Open())
        outcome = await asyncio.to_thread(decide, *arguments)
        if rank is not None:
            open_save.here.add(rank)
            open_save.on_the_way.pop(rank, None)
        if outcome is not None:
            self._settled(save)
        async with self._arrived:
            self._arrived.notify_all()
        return outcome or await self._wait(save, open_save)

    def _settled(self, save: SaveId) -> None:
        """Answer who waits for it; and for the saves that it overtook, which a version drops."""
        overtaken = [s for s in self._open if s < save and self._manager.outcome(s) is not None]
        for settled in (save, *overtaken):
            open_save = self._open.pop(settled, None)
            if open_save is not None:
                open_save.settled.set()

    async def settle(self, timeout_s: float) -> bool:
        """Wait until no shard is on its way any more; whether that came true in time.

        Asked when the ranks have ended: a save for which nothing is on its way can become no version by waiting.
        """
        try:
            await asyncio.wait_for(self._until_all_arrived(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _until_all_arrived(self) -> None:
        async with self._arrived:
            await self._arrived.wait_for(
                lambda: not any(open_save.on_the_way for open_save in self._open.values())
            )

    async def _wait(self, save: SaveId, open_save: _Open) -> VersionOutcome:
        reason = (
            "some ranks did not store their shards, and nothing was heard of any on its way for "
            f"{self._patience_s:.0f} s"
        )
        while (outcome := self._manager.outcome(save)) is None:
            try:
                await asyncio.wait_for(open_save.settled.wait(), self._patience_s)
            except TimeoutError:
                if not open_save.heard_within(self._patience_s):
                    return await self.answer(save, self._manager.give_up, save, reason)
        return outcome
