"""Room for workers on the cluster, asked of Ray itself: one placement group for each worker that might be started.

Ray creates such a group where the worker's resources are free, on no node that drains by then, and asks its autoscaler for
what is missing. A place that was created is held until `close`, so room that was seen is still there when training ends to use it.
"""

from __future__ import annotations

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
from ray_workers.policies.elastic import GrowthRule, WorkerRange
from ray_workers.ray_cluster import draining_nodes
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import AttemptInterruptedError

__all__ = ["GrowthPlan", "GrowthWatch", "Places", "wait_for_room"]

_LOOK_S = 1.0
_STILL_S = 4.0
"""So long the number of places must stay the same before it is taken for all that there is."""
_TELL_S = 60.0
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
    places = Places(worker, limits.most)
    began = told = changed = time.monotonic()
    room = 0
    try:
        while True:
            time.sleep(_LOOK_S)
            now, seen = time.monotonic(), places.free()
            if seen != room:
                room, changed = seen, now
            workers = limits.fitting(room)
            if workers is not None and (room == limits.most or now - changed >= _STILL_S):
                return workers
            if left_s is not None and now - began >= left_s:
                raise AttemptInterruptedError(_too_little(limits, room), cause=TIME_LIMIT)
            if now - told >= _TELL_S:
                told = now
                on_event(PawlEvent(kind="waiting", message=_too_little(limits, room), at=utc_now()))
    finally:
        places.close()


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

    def asked(self, *, arrived: int) -> StopRequest | None:
        """What ends this group for a larger one; None: nothing does.

        Args:
            arrived: ranks that were seen. Before all of them have their own places none is asked for beside them.
        """
        plan, now = self._plan, self._clock()
        if plan is None or plan.workers >= plan.limits.most or now - self._looked < _LOOK_S:
            return None
        self._looked = now
        if self._places is None:
            if arrived >= plan.workers:
                self._places = self._make(plan.worker, plan.limits.most - plan.workers)
            return None
        free = self._places.free()
        if (plan.limits.fitting(plan.workers + free) or 0) <= plan.workers:
            self._since = None
            return None
        self._since = now if self._since is None else self._since
        wanted = plan.rule.wanted(
            plan.limits, workers=plan.workers, free=free, there_s=now - self._since
        )
        if wanted is None:
            return None
        place = f"{plan.workers} to {wanted} workers"
        return StopRequest(reason="interrupted", cause=RESIZE, place=place, grace_s=_RESIZE_GRACE_S)

    def close(self) -> None:
        if self._places is not None:
            self._places.close()
            self._places = None
