"""The checkpoint actor: one per writer incarnation, named by its fence. An asynchronous shell over `CheckpointManager`.

It is never restarted by Ray: a second process under the same fence could commit beside the first (FORMAT.md §9). The
driver starts the next incarnation with a fence of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import ray

from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.gathering import Gathering
from ray_workers.messages import PawlEvent, SaveId, ShardReport, VersionOutcome
from ray_workers.metrics import RunMetrics
from ray_workers.ray_metrics import RayInstruments
from ray_workers.store.attempts import this_process
from ray_workers.store.opening import StorageTarget
from ray_workers.version_assembly import AttemptIdentity

__all__ = ["CheckpointActor", "actor_name", "newest_name"]

_CALLS_AT_ONCE = 100_000
"""Each rank's report waits here for those of all others, and the driver's calls must come in beside them. Ray's own
bound, 1,000, would keep a version of more ranks from ever being complete."""


def actor_name(run_id: str, attempt: int, fence: int) -> str:
    """Args: the fence that its attempt began with, and its own."""
    return f"{_attempt_names(run_id, attempt)}{fence}"


def newest_name(run_id: str, attempt: int, names: Iterable[str]) -> str | None:
    """Which of these names is the checkpoint actor's that commits for this attempt now; None: none of them."""
    prefix = _attempt_names(run_id, attempt)
    fences = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    newest = max((int(fence) for fence in fences if fence.isdecimal()), default=None)
    return None if newest is None else actor_name(run_id, attempt, newest)


def _attempt_names(run_id: str, attempt: int) -> str:
    return f"pawl-checkpoint-{run_id[:16]}-{attempt}-"


@ray.remote(  # type: ignore[call-overload] # Ray's stubs lack max_concurrency
    num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=_CALLS_AT_ONCE
)
class CheckpointActor:
    def __init__(
        self, target: StorageTarget, attempt: AttemptIdentity, failure_budget: int
    ) -> None:
        store = target.open().store
        self._manager = CheckpointManager(store, attempt, failure_budget=failure_budget)
        self._gathering = Gathering(self._manager)
        self._metrics = RunMetrics(RayInstruments(), attempt.run)
        self._metrics.started(resumed=attempt.parent is not None)

    async def begin(self, save: SaveId, rank: int) -> None:
        """A node agent stores the shard of `rank`; it says so again and again until that is done."""
        self._gathering.begin(save, rank)

    async def gather(self, report: ShardReport) -> VersionOutcome:
        """Take a durable shard; answers when the whole version is committed or dropped."""
        return await self._gathering.gather(report)

    async def give_up(self, save: SaveId, reason: str) -> VersionOutcome:
        return await self._gathering.answer(save, self._manager.give_up, save, reason)

    async def lose(self, save: SaveId, reason: str) -> VersionOutcome:
        return await self._gathering.answer(save, self._manager.lose, save, reason)

    async def drain_events(self) -> tuple[list[PawlEvent], str | None]:
        """Events since the last call, and why the attempt must stop, if it must."""
        events = await asyncio.to_thread(self._manager.drain_events)
        self._metrics.events(events)
        return events, self._manager.stop_reason

    async def stop(self, reason: str) -> None:
        self._manager.stop(reason)

    async def settle(self, timeout_s: float) -> bool:
        """Wait until no shard is on its way any more; whether that came true in time."""
        return await self._gathering.settle(timeout_s)

    async def process(self) -> dict[str, object]:
        return this_process()
