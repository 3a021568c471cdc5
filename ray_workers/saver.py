"""One worker's saves: plan once, copy into a staging buffer, hand over, learn later what became of it.

`stage` returns while the copy of the steady state (`state_copy`) still runs; `before_step` ends what training must wait
for. A shard is handed over by a background thread as soon as its copy is whole.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from ray_workers.device_copy import on_device
from ray_workers.host_copy import copy_pool
from ray_workers.messages import SaveId, StagedShard, VersionOutcome
from ray_workers.pipeline import PendingSave, SavePipeline
from ray_workers.rank_content import RankContent, digests_in, rank_state, staged_parts
from ray_workers.reuse import Offer, Reuse
from ray_workers.shard_io import ShardPlan, plan_shard
from ray_workers.staging import StagingBuffer, StagingRing
from ray_workers.state_copy import StateCopy
from ray_workers.store.errors import PawlError
from ray_workers.store.manifest import Manifest, Progress

__all__ = ["RankContent", "Saver"]

_BUFFER_PATIENCE_S = 30.0
_HEADROOM_BYTES = 256 * 1024


@dataclass(slots=True)
class _Flight:
    """One save, from the begin of its copy to the answer."""

    buffer: StagingBuffer
    save: SaveId
    offer: Offer
    copy: StateCopy | None = None
    pending: PendingSave | None = None
    declined: bool = False
    begun_at: float = field(default_factory=time.monotonic)
    stood_still_s: float = 0.0
    """Seconds that training waited for this copy so far."""
    waiting_since: float | None = None
    handed_over: threading.Event = field(default_factory=threading.Event)


class Saver:
    """Args as in `context.TrainingContext`; not shared between threads."""

    def __init__(
        self,
        pipeline: SavePipeline,
        *,
        rank: int,
        world_size: int,
        buffers: int,
        full_every: int = 1,
        resting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._resting = resting
        self._pipeline = pipeline
        self._rank = rank
        self._world_size = world_size
        self._buffers = buffers
        self._ring: StagingRing | None = None
        self._plan: ShardPlan | None = None
        self._flights: list[_Flight] = []
        self._saves = 0
        self._unheard: list[VersionOutcome] = []
        self._pool: ThreadPoolExecutor | None = None
        self._restless: set[str] = set()
        self._full_every = full_every
        self._reuse = Reuse(rank=rank, full_every=full_every)

    @property
    def in_flight(self) -> bool:
        return bool(self._flights)

    @property
    def flights(self) -> int:
        """How many saves are open."""
        return len(self._flights)

    @property
    def restless(self) -> AbstractSet[str]:
        """Paths called steady that changed between two optimizer steps; from then on they are copied at once."""
        return self._restless

    def resumed(self, manifest: Manifest) -> None:
        """Training goes on from this version of the run: what it holds need not be sent again."""
        stored = (entry for entry in manifest.shards if entry.rank == self._rank)
        self._reuse = Reuse(rank=self._rank, stored=stored, full_every=self._full_every)

    def collect(self) -> list[VersionOutcome]:
        """Outcomes that arrived since the last call, oldest first. Never blocks."""
        return self._gather(_poll)

    def wait(self, timeout_s: float) -> list[VersionOutcome]:
        """As `collect`, but waits for the open saves, up to `timeout_s` seconds for all of them."""
        deadline = time.monotonic() + timeout_s
        self.before_step()  # there is nothing better to do than to help with the copy
        return self._gather(lambda flight: _wait(flight, deadline))

    def stage(self, content: RankContent, progress: Progress) -> None:
        """Begin to copy the live state into a buffer, to be handed over when the copy is whole.

        When this returns, training may change everything but what `content` calls steady; and that after
        `before_step`. With no buffer free the version is dropped, never waited for. All ranks call it for the same saves.
        """
        started = time.monotonic()
        save = SaveId(step=progress.step, number=self._saves)
        self._saves += 1
        self.before_step()  # two saves without an optimizer's step between them
        offer = self._reuse.offer(content.tensors, content.frozen)
        plan = self._planned(content.tensors, offer.groups)
        buffer = self._free_buffer(plan.total, pinned=any(map(on_device, content.tensors.values())))
        if buffer is None:
            self._pipeline.decline(save, self._rank, "all its staging buffers are still being read")
            return
        self._pool = self._pool or copy_pool()
        flight = _Flight(buffer, save, offer, waiting_since=started)
        with torch.no_grad():
            flight.copy = StateCopy(
                plan,
                content.tensors,
                buffer.memory,
                steady=(content.steady | offer.steady) - self._restless,
                pool=self._pool,
                settled=functools.partial(self._hand_over, flight, plan, content, progress),
            )
        # Not before: nobody hands over a copy that could not be begun, and the loop's end would wait for it. Its buffer stays
        # taken, as a device may write to it.
        self._flights.append(flight)
        _stop_waiting(flight)

    def before_step(self) -> None:
        """Return when an optimizer may write. Called ahead of every step; costs nothing when no copy runs."""
        for flight in self._flights:
            if flight.copy is not None:
                flight.waiting_since = time.monotonic()
                flight.copy.before_step()
                flight.copy = None
                _stop_waiting(flight)

    def hand_over_all(self) -> None:
        """Return when every copy that was begun is with the pipeline: it needs this process no more."""
        self.before_step()
        for flight in self._flights:
            flight.handed_over.wait(_BUFFER_PATIENCE_S)

    def close(self) -> None:
        """End copies that run, and free the buffers; saves that were handed over go on."""
        self.hand_over_all()
        if self._pool is not None:
            self._pool.shutdown()
        if self._ring is not None:
            self._ring.close()
        self._pipeline.close()

    def _hand_over(
        self,
        flight: _Flight,
        plan: ShardPlan,
        content: RankContent,
        progress: Progress,
        changed: tuple[str, ...],
    ) -> None:
        """On a background thread: the copy is whole."""
        try:
            if changed:
                self._restless.update(changed)
                self._decline(flight, _unsteady(changed))
                return
            if self._reuse.in_doubt:
                self._reuse.compare(plan.groups, digests_in(plan, flight.buffer.memory))
            staged = StagedShard(
                rank=self._rank,
                world_size=self._world_size,
                progress=progress,
                payload=content.payload,
                path=flight.buffer.path,
                parts=staged_parts(plan, with_layout=content.payload == "state"),
                state=rank_state(content),
                staged_s=_stood_still(flight),
                known=flight.offer.known,
                begun_at=flight.begun_at,
                save_number=flight.save.number,
            )
            flight.pending = self._pipeline.submit(staged)
        except (PawlError, OSError) as error:
            self._decline(flight, str(error))
        except Exception as error:  # noqa: BLE001 - the outermost frame of a thread: a save that nobody ends stays open for ever
            self._decline(flight, f"{type(error).__name__}: {error}")
        finally:
            flight.handed_over.set()

    def _decline(self, flight: _Flight, reason: str) -> None:
        flight.declined = True
        self._pipeline.decline(flight.save, self._rank, reason)

    def _planned(
        self, tensors: Mapping[str, torch.Tensor], groups: tuple[frozenset[str], ...]
    ) -> ShardPlan:
        if self._plan is None or not self._plan.fits(tensors, groups):
            self._plan = plan_shard(tensors, rank=self._rank, groups=groups)
        return self._plan

    def _free_buffer(self, size: int, *, pinned: bool) -> StagingBuffer | None:
        if self._ring is None or self._ring.size < size:
            with self._resting():
                self._replace_ring(size, pinned=pinned)
        if self._ring is None or self._ring.size < size:
            return None  # a free one would be too small
        return self._ring.take()

    def _replace_ring(self, size: int, *, pinned: bool) -> None:
        """The state grew (an optimizer's state appears with its first step): larger buffers, once the old are free."""
        self._unheard = self.wait(_BUFFER_PATIENCE_S)
        if self._ring is not None:
            if not self._ring.idle:
                return
            self._ring.close()
        paths = self._pipeline.allocate(self._rank, count=self._buffers, size=_with_headroom(size))
        self._ring = StagingRing(paths, pinned=pinned)

    def _gather(self, ask: Callable[[_Flight], VersionOutcome | None]) -> list[VersionOutcome]:
        outcomes, open_flights = self._unheard, []
        self._unheard = []
        for flight in self._flights:
            outcome = ask(flight)
            if outcome is None and not flight.declined:
                open_flights.append(flight)
                continue
            if outcome is not None:
                self._reuse.heard(flight.offer, outcome)
                outcomes.append(outcome)
            if self._ring is not None:
                self._ring.give_back(flight.buffer.path)
        self._flights = open_flights
        return outcomes


def _poll(flight: _Flight) -> VersionOutcome | None:
    return flight.pending.poll() if flight.pending is not None else None


def _wait(flight: _Flight, deadline: float) -> VersionOutcome | None:
    flight.handed_over.wait(_left(deadline))
    return flight.pending.wait(_left(deadline)) if flight.pending is not None else None


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _stop_waiting(flight: _Flight) -> None:
    since, flight.waiting_since = flight.waiting_since, None
    if since is not None:
        flight.stood_still_s += time.monotonic() - since


def _stood_still(flight: _Flight) -> float:
    since = flight.waiting_since
    return flight.stood_still_s + (time.monotonic() - since if since is not None else 0.0)


def _unsteady(paths: tuple[str, ...]) -> str:
    return (
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''} changed between advance and the next "
        "optimizer step, while it was being copied; from now on it is copied before training goes on"
    )


def _with_headroom(size: int) -> int:
    """Room to grow: the metric series gets longer with every step, and a ring is costly to replace."""
    return size + max(size // 32, _HEADROOM_BYTES)
