"""From a staging buffer to a durable shard: put under a fresh key, try by try, and digested in the same pass.

Training has the first right to the processor: threads that upload have a lower priority (`lower_priority`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from typing_extensions import Buffer

from ray_workers.hot_shards import note_stored
from ray_workers.messages import ShardReport, StagedShard
from ray_workers.staged_memory import StagedMemory
from ray_workers.store import keys
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import StoreUnavailableError, UploadFailedError
from ray_workers.store.shards import ShardEntry

__all__ = ["ShardStore", "Uploader", "lower_priority"]

_NICENESS = 10
_UPLOADS_AT_ONCE = 4

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


def lower_priority() -> None:
    """This thread, and those that it starts from now on, leave the processor to training where it is short."""
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < _NICENESS:
        os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


class ShardStore(Protocol):
    """As much of an `ObjectStore` as an uploader needs."""

    def put(self, key: str, data: Buffer) -> None: ...


class Uploader:
    """Stores shards of one run.

    Args:
        store: where to.
        run: the run's name.
        tries: how often a shard is sent before its version is dropped; every try has a key of its own, so that a late
            answer to an abandoned one can touch nothing that is referred to.
        sleep: pause in seconds; replaced in tests.

    At most four ranks' shards are sent at once; the others wait for their turn.
    """

    def __init__(
        self,
        store: ShardStore,
        run: str,
        *,
        tries: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._run = run
        self._tries = tries
        self._sleep = sleep
        self._staged = StagedMemory()
        self._turns = threading.BoundedSemaphore(_UPLOADS_AT_ONCE)

    def forget(self) -> None:
        """Staging files are about to be removed: hold their memory no longer than an upload that runs."""
        self._staged.forget()

    def upload(self, staged: StagedShard, fence: int) -> ShardReport:
        """Store one rank's shards; its buffer is free when this returns or raises.

        What stands still is digested first, and only sent when no shard of `staged.known` has the same bytes.

        Raises:
            UploadFailedError: no try succeeded.
            StoreRefusedError: the store needs a person (full disk, no permission); trying again would not help.
        """
        with self._turns:
            return self._uploaded(staged, fence)

    def _uploaded(self, staged: StagedShard, fence: int) -> ShardReport:
        started = time.monotonic()
        memory = self._staged.view(
            staged.path, max(part.begin + part.bytes for part in staged.parts)
        )
        entries, reused = [], set[str]()
        for part in staged.parts:
            shard = memory[part.begin : part.begin + part.bytes]
            known = [e for e in staged.known if part.still and e.bytes == part.bytes]
            digest = digest_of(shard) if known else None
            entry = next((e for e in known if e.digest == digest), None)
            if entry is None:
                entry = self._stored(shard, staged.rank, fence, digest)
            else:
                reused.add(entry.key)
            entries.append(entry)
        note_stored(staged.path, [part.begin for part in staged.parts], entries)
        now = time.monotonic()
        return ShardReport(
            staged=staged,
            entries=tuple(entries),
            reused=frozenset(reused),
            fence=fence,
            upload_s=now - started,
            durable_s=None if staged.begun_at is None else max(0.0, now - staged.begun_at),
        )

    def _stored(self, shard: memoryview, rank: int, fence: int, digest: str | None) -> ShardEntry:
        with ThreadPoolExecutor(1, "pawl-digest") as digesting:
            digested = None if digest is not None else digesting.submit(digest_of, shard)
            key = self._put(shard, fence)
        found = digested.result() if digested is not None else str(digest)
        return ShardEntry(rank=rank, key=key, bytes=len(shard), digest=found)

    def _put(self, shard: memoryview, fence: int) -> str:
        pause = _FIRST_PAUSE_S
        for attempt in range(1, self._tries + 1):
            key = keys.new_shard_key(self._run, fence)
            try:
                self._store.put(key, shard)
            except StoreUnavailableError as error:
                if attempt == self._tries:
                    raise UploadFailedError(
                        f"A shard of {len(shard)} bytes could not be stored in {self._tries} tries: {error}",
                        key=key,
                    ) from error
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                return key
        raise UploadFailedError("No try was allowed: upload_tries must be at least 1.")
