"""Ends that announce themselves: a time limit, and nodes that Ray is about to lose. Asked by the supervisor in passing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_workers.messages import DRAINING, TIME_LIMIT, PawlEvent, StopRequest
from ray_workers.policies.last_save import LastSave

__all__ = ["InterruptionWatch", "TimeLimit"]

_DRAIN_POLL_S = 2.0
_DRAIN_GRACE_S = 20.0
"""For a node that leaves without saying when; Ray drains for 30 seconds after SIGTERM."""
_DRAIN_RESERVE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimit:
    limit_s: float
    """As the user gave it."""
    until: float
    """When it is over, on the watch's clock."""


@dataclass(slots=True, kw_only=True)
class InterruptionWatch:
    limit: TimeLimit | None
    draining: Callable[[], Mapping[str, float | None]]
    """Node to the seconds until it is gone; None: it does not say."""
    place: Callable[[str], str | None]
    """Of a node, its name and the ranks that train on it; None: none does."""
    clock: Callable[[], float] = time.monotonic
    _looked: float = 0.0
    _persist_s: float | None = None
    _step_s: float | None = None
    _last: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        self._looked = self.clock()

    def committed(self, event: PawlEvent) -> None:
        """Learn how long a save takes, and a step, at the most."""
        now, step = self.clock(), int(event.details["step"])
        took = event.details.get("persist_s")
        if took is not None:
            self._persist_s = max(float(took), self._persist_s or 0.0)
        if self._last is not None and step > self._last[0]:
            self._step_s = (now - self._last[1]) / (step - self._last[0])
        self._last = (step, now)

    def steps_take(self, seconds: float) -> None:
        """What the ranks themselves say: it is known before the second commit, and without any."""
        self._step_s = max(seconds, self._step_s or 0.0)

    def asked(self, agents: Mapping[str, Any]) -> StopRequest | None:
        """Why training must end now; None: it may go on."""
        return self._time_is_up() or self._node_leaves(agents)

    def _time_is_up(self) -> StopRequest | None:
        if self.limit is None:
            return None
        rule = LastSave()
        left = self.limit.until - self.clock()
        lead = rule.lead_s(
            limit_s=self.limit.limit_s, persist_s=self._persist_s, step_s=self._step_s
        )
        if left > lead:
            return None
        grace = max(0.0, left - min(rule.ending_s, left / 2))
        return StopRequest(reason="interrupted", cause=TIME_LIMIT, grace_s=grace)

    def _node_leaves(self, agents: Mapping[str, Any]) -> StopRequest | None:
        if self.clock() - self._looked < _DRAIN_POLL_S:
            return None
        self._looked = self.clock()
        for node, left in self.draining().items():
            if node not in agents or (place := self.place(node)) is None:
                continue
            # A deadline that is past while the node still trains was set by a clock behind this one, and says nothing.
            if left is None or left <= 0:
                grace = _DRAIN_GRACE_S
            else:
                grace = max(0.0, left - _DRAIN_RESERVE_S)
            return StopRequest(reason="interrupted", cause=DRAINING, place=place, grace_s=grace)
        return None
