"""The port between a training loop and whatever makes its staged shards durable.

Two implementations: `ray_pipeline` (node agent and checkpoint actor) and `InProcessPipeline` here, for a loop without
Ray. A session calls `allocate` once per buffer size, then `submit` for every save; it never waits for the store.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Protocol

from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.messages import DriverNews, SaveId, StagedShard, StopRequest, VersionOutcome
from ray_workers.staging_files import StagingFolder
from ray_workers.store.errors import PawlError
from ray_workers.uploader import Uploader, lower_priority

__all__ = ["InProcessPipeline", "PendingSave", "SavePipeline", "store_and_report"]


class PendingSave(Protocol):
    """One submitted shard."""

    def poll(self) -> VersionOutcome | None:
        """What became of the version, or None while that is open. Never blocks. Once it answers, the buffer is free."""

    def wait(self, timeout_s: float) -> VersionOutcome | None:
        """As `poll`, after waiting at most `timeout_s` seconds."""


class SavePipeline(Protocol):
    def allocate(self, rank: int, *, count: int, size: int) -> list[str]:
        """Paths of `count` staging files of `size` bytes. Raises `StoreRefusedError` when memory is short."""

    def submit(self, staged: StagedShard) -> PendingSave:
        """Hand over a staged shard. Returns at once."""

    def decline(self, save: SaveId, rank: int, reason: str) -> None:
        """This rank has no shard for `save`: the version is dropped. Returns at once."""

    def at_work(self) -> bool:
        """Whether what was handed over is still being worked on, so that its answer will come, however slow the store.

        May take a minute to find out.
        """

    def stop_request(self) -> StopRequest | None:
        """Why the attempt must end, as far as is known here; None: go on. Never blocks."""

    def news(self) -> DriverNews:
        """What the driver said last, as far as it is known here. Never blocks."""

    def close(self) -> None:
        """Free the staging files of this worker."""


def store_and_report(
    uploader: Uploader, staged: StagedShard, fence: int, report: Callable[..., VersionOutcome | None],
    give_up: Callable[[SaveId, str], VersionOutcome],
) -> VersionOutcome | None:  # fmt: skip
    """Make one staged shard durable and tell the coordinator, whichever way it went."""
    try:
        done = uploader.upload(staged, fence)
    except (PawlError, OSError) as error:
        return give_up(staged.save, f"rank {staged.rank}: {error}")
    outcome = report(done)
    if outcome is None or outcome.number is None or outcome.resend:
        return outcome
    return replace(outcome, shards=done.entries)


class InProcessPipeline:
    """Everything in this process, the upload on one background thread. For one worker."""

    def __init__(
        self, manager: CheckpointManager, uploader: Uploader, staging: StagingFolder, fence: int
    ) -> None:
        self._manager = manager
        self._uploader = uploader
        self._staging = staging
        self._fence = fence
        self._pool = ThreadPoolExecutor(
            1, thread_name_prefix="pawl-upload", initializer=lower_priority
        )

    def allocate(self, rank: int, *, count: int, size: int) -> list[str]:
        self._uploader.forget()  # what the rank had is removed
        return self._staging.allocate(rank, count=count, size=size)

    def submit(self, staged: StagedShard) -> PendingSave:
        future = self._pool.submit(
            store_and_report,
            self._uploader,
            staged,
            self._fence,
            self._manager.gather,
            self._manager.give_up,
        )
        return _FuturePending(future)

    def decline(self, save: SaveId, rank: int, reason: str) -> None:
        self._manager.give_up(save, f"rank {rank}: {reason}")

    def at_work(self) -> bool:
        return True  # a thread of this process, and its tries are counted

    def stop_request(self) -> StopRequest | None:
        reason = self._manager.stop_reason
        return None if reason is None else StopRequest(reason=reason)

    def news(self) -> DriverNews:
        return DriverNews(stop=self.stop_request())  # nobody judges anything here

    def close(self, *, keep: bool = False) -> None:
        """As the protocol says; `keep`: leave the staging files to the next attempt."""
        self._pool.shutdown()
        self._uploader.forget()
        if not keep:
            self._staging.release()


class _FuturePending:
    def __init__(self, future: Future[VersionOutcome | None]) -> None:
        self._future = future

    def poll(self) -> VersionOutcome | None:
        return self._future.result() if self._future.done() else None

    def wait(self, timeout_s: float) -> VersionOutcome | None:
        try:
            return self._future.result(timeout_s)
        except FutureTimeoutError:
            return None
