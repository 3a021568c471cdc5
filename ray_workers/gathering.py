"""Ranks that wait for each other's shards: each asks once, and is answered when the step is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.messages import VersionOutcome

__all__ = ["Gathering"]

_TIMEOUT_S = 600.0


class Gathering:
    """The asynchronous side of one coordinator.

    Args:
        manager: decides; called on other threads.
        timeout_s: seconds that a rank waits for the others; then its step is given up.
    """

    def __init__(self, manager: CheckpointManager, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._manager = manager
        self._timeout_s = timeout_s
        self._settled: dict[int, asyncio.Event] = {}

    async def answer(
        self, step: int, decide: Callable[..., VersionOutcome | None], *arguments: object
    ) -> VersionOutcome:
        """What `decide` says of `step`; while that is open, what a later message settles."""
        # Taken before the decision: another rank's may come in between, and settle the step.
        settled = self._settled.setdefault(step, asyncio.Event())
        outcome = await asyncio.to_thread(decide, *arguments)
        if outcome is None:
            outcome = await self._wait(step, settled)
        if not self._manager.waits_for(step):
            settled.set()
            if self._settled.get(step) is settled:
                del self._settled[step]  # what was lost may be saved once more
        self._answer_others(step)
        return outcome

    def _answer_others(self, step: int) -> None:
        """A version drops the saves that it overtook: whoever waits for one of them waits for nothing."""
        for other in [
            s for s in self._settled if s < step and self._manager.outcome(s) is not None
        ]:
            self._settled.pop(other).set()

    async def settle(self, timeout_s: float) -> bool:
        """Wait until no version is half gathered; whether that came true in time."""
        waiting = [event.wait() for event in self._settled.values()]
        try:
            await asyncio.wait_for(asyncio.gather(*waiting), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _wait(self, step: int, settled: asyncio.Event) -> VersionOutcome:
        try:
            await asyncio.wait_for(settled.wait(), self._timeout_s)
        except TimeoutError:
            reason = f"some ranks did not store their shards within {self._timeout_s:.0f} s"
            return await asyncio.to_thread(self._manager.give_up, step, reason)
        return self._manager.outcome(step) or self._manager.lost(step)
