"""From a staging buffer to a durable shard: put under a fresh key, try by try, and digested in the same pass.

Training has the first right to the processor: threads that upload have a lower priority (`lower_priority`).
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ray_workers.messages import ShardReport, StagedShard
from ray_workers.store import keys
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import StoreUnavailableError, UploadFailedError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.shards import ShardEntry

__all__ = ["Uploader", "lower_priority"]

_NICENESS = 10

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


def lower_priority() -> None:
    """This thread, and those that it starts from now on, leave the processor to training where it is short."""
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < _NICENESS:
        os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


class Uploader:
    """Stores shards of one run.

    Args:
        store: where to.
        run: the run's name.
        tries: how often a shard is sent before its version is dropped; every try has a key of its own, so that a late
            answer to an abandoned one can touch nothing that is referred to.
        sleep: pause in seconds; replaced in tests.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        tries: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._run = run
        self._tries = tries
        self._sleep = sleep

    def upload(self, staged: StagedShard, fence: int) -> ShardReport:
        """Store one staged shard; its buffer is free when this returns or raises.

        Raises:
            UploadFailedError: no try succeeded.
            StoreRefusedError: the store needs a person (full disk, no permission); trying again would not help.
        """
        started = time.monotonic()
        shard = _mapped(Path(staged.path), staged.bytes)
        with ThreadPoolExecutor(1, "pawl-digest") as digesting:
            digest = digesting.submit(digest_of, shard)
            key = self._put(shard, fence)
        entry = ShardEntry(rank=staged.rank, key=key, bytes=staged.bytes, digest=digest.result())
        return ShardReport(
            staged=staged, entry=entry, fence=fence, upload_s=time.monotonic() - started
        )

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


def _mapped(path: Path, length: int) -> memoryview:
    """The file's bytes. They stay mapped as long as anybody holds the view: a client's error may, and closing would raise."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        mapping = mmap.mmap(descriptor, length, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    return memoryview(mapping)
