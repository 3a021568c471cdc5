"""Room for workers on the cluster, asked of Ray itself: one placement group for each worker that might be started.

Ray creates such a group where the worker's resources are free, on no node that drains by then, and asks its autoscaler for
what is missing. A place that was created is held until `close`, so room that was seen is still there when training ends to use it.
What is of no use is not held for long: another run on the cluster may need just that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from ray_workers.messages import RESIZE, TIME_LIMIT, PawlEvent, StopRequest
from ray_workers.policies.elastic import GivingBack, GrowthRule, WorkerRange
from ray_workers.ray_cluster import draining_nodes
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import AttemptInterruptedError

__all__ = ["GrowthPlan", "GrowthWatch", "Places", "wait_for_room"]

_LOOK_S = 1.0
_STILL_S = 4.0
"""So long the number of places must stay the same before it is taken for all that there is."""
_TELL_S = 60.0
_UNUSED_S = 120.0
"""So long a place beside those that train is held that is of no use by itself: another one may come."""
_UNUSED_PAUSE_S = 10.0
"""Before it is asked for again; whoever else waits for it has it at once."""
_RESIZE_GRACE_S = 3600.0
"""Nothing presses, but a rank that never comes to the end of its step must not be waited for for ever."""


class Places:
    """So many places are asked for, each with the resources of one worker."""

    def __init__(self, worker: Mapping[str, float], count: int) -> None:
        self._groups: list[PlacementGroup] = [placement_group([dict(worker)]) for _ in range(count)]

    def free(self) -> int:
        """How many there are by now; 0 when Ray cannot be asked."""
        try:
            table, leaving = placement_group_table(), set(draining_nodes())
        except Exception:  # noqa: BLE001 - Ray raises many types; who watches goes on, and asks again
            return 0
        found = [table.get(group.id.hex(), {}) for group in self._groups]
        return sum(
            place.get("state") == "CREATED"
            and leaving.isdisjoint(place["bundles_to_node_id"].values())
            for place in found
        )

    def close(self) -> None:
        """Give them back, those too that are still waited for."""
        groups, self._groups = self._groups, []
        for group in groups:
            remove_placement_group(group)


class _Asking:
    """The places that a group which is to begin asks for, until there are enough."""

    def __init__(self, worker: Mapping[str, float], limits: WorkerRange) -> None:
        self._worker, self._limits = worker, limits
        self._rule = GivingBack()
        self._places: Places | None = None
        self._ask_at = self._changed = self._risen = self._chance = 0.0
        self.room = 0
        """When last seen."""
        self._ask(time.monotonic())

    def look(self, now: float) -> int | None:
        """The number of workers to start; None: there are too few places, or more may be coming."""
        if self._places is None:
            if now >= self._ask_at:
                self._ask(now)
            return None
        limits, before, self.room = self._limits, self.room, self._places.free()
        self._changed = now if self.room != before else self._changed
        self._risen = now if self.room > before else self._risen
        workers = limits.fitting(self.room)
        if workers is not None and (self.room == limits.most or now - self._changed >= _STILL_S):
            return workers
        still_s = now - self._risen
        if self._rule.due(limits, held=self.room, still_s=still_s, chance=self._chance):
            self.close()
            self._ask_at = now + self._rule.pause(_chance())
        return None

    def _ask(self, now: float) -> None:
        self._places = Places(self._worker, self._limits.most)
        self._changed = self._risen = now
        self._chance = _chance()
        self.room = 0

    def close(self) -> None:
        if self._places is not None:
            self._places.close()
            self._places = None


def _chance() -> float:
    return random.random()  # noqa: S311 - jitter, not a secret


def wait_for_room(
    worker: Mapping[str, float],
    limits: WorkerRange,
    *,
    left_s: float | None,
    on_event: Callable[[PawlEvent], None],
) -> int:
    """The number of workers to start: the most of the range that there is room for, when it is clear how many that is.

    Args:
        worker: resources of one.
        limits: the range.
        left_s: seconds until the time limit; None: there is none.
        on_event: hears now and then that there is too little room.

    Raises:
        AttemptInterruptedError: the time limit came first.
    """
    asking = _Asking(worker, limits)
    began = told = time.monotonic()
    try:
        while True:
            time.sleep(_LOOK_S)
            now = time.monotonic()
            if (workers := asking.look(now)) is not None:
                return workers
            if left_s is not None and now - began >= left_s:
                raise AttemptInterruptedError(_too_little(limits, asking.room), cause=TIME_LIMIT)
            if now - told >= _TELL_S:
                told = now
                text = _too_little(limits, asking.room)
                on_event(PawlEvent(kind="waiting", message=text, at=utc_now()))
    finally:
        asking.close()


def _too_little(limits: WorkerRange, room: int) -> str:
    return f"Waiting for room: {limits.least} to {limits.most} workers are wanted, and there is room for {room}."


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthPlan:
    worker: Mapping[str, float]
    """Resources of one."""
    limits: WorkerRange
    workers: int
    """That train."""
    rule: GrowthRule


class GrowthWatch:
    """While a group trains: is there room for a larger one? Called by one thread, again and again.

    Args:
        plan: None: the number of workers is fixed.
        places: makes the places that are asked for.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        plan: GrowthPlan | None,
        places: Callable[[Mapping[str, float], int], Places] = Places,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._make, self._clock = places, clock
        self._places: Places | None = None
        self._looked = float("-inf")
        self._since: float | None = None
        self._unused_since: float | None = None
        self._ask_at = float("-inf")

    def asked(self, *, arrived: int) -> StopRequest | None:
        """What ends this group for a larger one; None: nothing does.

        Args:
            arrived: ranks that were seen. Before all of them have their own places none is asked for beside them.
        """
        plan, now = self._plan, self._clock()
        if plan is None or now - self._looked < _LOOK_S:
            return None
        self._looked = now
        if self._places is None:
            might_grow = plan.workers < (plan.limits.fitting(plan.limits.most) or 0)
            if might_grow and arrived >= plan.workers and now >= self._ask_at:
                self._places = self._make(plan.worker, plan.limits.most - plan.workers)
            return None
        free = self._places.free()
        if (plan.limits.fitting(plan.workers + free) or 0) <= plan.workers:
            self._since = None
            self._give_back_unused(now, free)
            return None
        self._unused_since = None
        self._since = now if self._since is None else self._since
        wanted = plan.rule.wanted(
            plan.limits, workers=plan.workers, free=free, there_s=now - self._since
        )
        if wanted is None:
            return None
        place = f"{plan.workers} to {wanted} workers"
        return StopRequest(reason="interrupted", cause=RESIZE, place=place, grace_s=_RESIZE_GRACE_S)

    def _give_back_unused(self, now: float, free: int) -> None:
        """Places that lead only to a number that the loop refused are not held for all of the training."""
        if free == 0:
            self._unused_since = None
            return
        self._unused_since = now if self._unused_since is None else self._unused_since
        if now - self._unused_since >= _UNUSED_S:
            self.close()
            self._unused_since, self._ask_at = None, now + _UNUSED_PAUSE_S

    def close(self) -> None:
        if self._places is not None:
            self._places.close()
            self._places = None
