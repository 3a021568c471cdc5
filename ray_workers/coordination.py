"""Who coordinates a node agent's saves: one checkpoint actor after the other, each under a fence of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray_workers.messages import DriverNews, StopRequest
from ray_workers.policies.failure_rate import FailureRate
from ray_workers.store.errors import StoreUnavailableError

__all__ = ["Coordination", "Coordinator"]

_PATIENCE_S = 60.0
"""How long a save waits until the driver names the next coordinator. Training may stand still for it."""
_MESSAGE_PATIENCES = 15
"""A message waits so much longer: nobody stands still for it, and what it says is owed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """Who coordinates now, the checkpoint actor and its fence; and what `DriverNews` passes on."""

    actor: Any
    fence: int
    stop: StopRequest | None = None
    validating: bool = False
    rate: FailureRate | None = None


class Coordination:
    """What one agent knows; shared by its threads.

    Args:
        patience_s: seconds that a save waits for a coordinator that is not there yet; a message waits fifteen times that.
    """

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._attached: Coordinator | None = None
        self._attached_at = 0.0
        self._dead_fence = 0
        """The newest coordinator that is known to have died; its successors have higher fences."""

    def attach(self, coordinator: Coordinator) -> None:
        """Serve this one from now on. The driver says it again and again."""
        with self._changed:
            self._attached, self._attached_at = coordinator, time.monotonic()
            self._changed.notify_all()

    def current(self) -> Coordinator:
        """The coordinator now; while the last one is known to be dead, its successor.

        Raises:
            StoreUnavailableError: none is named within the patience.
        """
        found = self._living(self._patience_s)
        if found is None:
            raise StoreUnavailableError("The node agent was not told who coordinates this attempt.")
        return found

    def news(self) -> DriverNews:
        """What the driver said last; the grace of a request to end runs on meanwhile."""
        with self._changed:
            said, age_s = self._attached, time.monotonic() - self._attached_at
        if said is None:
            return DriverNews()
        stop = None if said.stop is None else said.stop.after(age_s)
        return DriverNews(stop=stop, validating=said.validating, rate=said.rate)

    def bury(self, coordinator: Coordinator) -> None:
        """It is dead: nothing more is brought to it."""
        with self._changed:
            self._dead_fence = max(self._dead_fence, coordinator.fence)

    def tell(self, hears: Callable[[Coordinator], bool]) -> bool:
        """Bring a message to whoever lives to hear it.

        A shard that one rank gave to a dying coordinator may be missing to its successor, which would wait for it in
        vain: so what a version will never have must be said to the one that lives in the end.

        Args:
            hears: sends the message; False when that coordinator is dead.

        Returns:
            False when nobody heard it within the patience.
        """
        patience_s = _MESSAGE_PATIENCES * self._patience_s
        while (found := self._living(patience_s)) is not None:
            if hears(found):
                return True
            self.bury(found)
        return False

    def _living(self, patience_s: float) -> Coordinator | None:
        def known() -> bool:
            return self._attached is not None and self._attached.fence > self._dead_fence

        with self._changed:
            return self._attached if self._changed.wait_for(known, patience_s) else None
