"""The commit protocol: shards are durable, then the manifest, then one record (FORMAT.md §9)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ray_workers.store import keys
from ray_workers.store.bodies import Commit
from ray_workers.store.errors import DigestMismatchError, InternalError, StoreUnavailableError
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.rules import check_fence
from ray_workers.store.run_state import RunState

__all__ = ["CommittedVersion", "commit_version", "put_with_retries"]

_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedVersion:
    number: int
    manifest: str
    fence: int
    step: int
    bytes: int
    at: str


def commit_version(
    store: ObjectStore,
    log: RunLog,
    manifest: Manifest,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> CommittedVersion:
    """Make a version of shards that are already durable.

    The order is the invariant: whoever finds the record finds the manifest, whoever finds the manifest finds the shards.
    Nothing is deleted on failure: an unanswered write may still land (FORMAT.md §6).

    Raises:
        FenceLostError: a newer attempt owns the run. Nothing was committed.
        RuleRefusedError: the step is not above this attempt's last. Nothing was committed.
        OutcomeUnknownError: the record was sent, and may be in the log or appear there. Nothing may be undone.
        StoreUnavailableError: the manifest could not be stored. Nothing was committed.
    """
    check_fence(log.refresh(), manifest.fence)
    data = manifest.to_bytes()
    key = keys.manifest_key(log.state.run, manifest.fence, manifest.digest)
    put_with_retries(store, key, data, sleep=sleep)
    if store.get(key) != data:
        raise DigestMismatchError(
            f"{key} reads back other bytes than were written; the version is dropped.", key=key
        )
    size = len(data) + sum(shard.bytes for shard in manifest.shards)

    def decide(state: RunState) -> Commit:
        return Commit(
            fence=manifest.fence, number=state.next_number, manifest=manifest.digest,
            step=manifest.progress.step, bytes=size,
        )  # fmt: skip

    # The commit point. Before this record no reader knows the version; after it the version is durable and whole.
    record = log.append(decide)
    if record is None or not isinstance(record.body, Commit):
        raise InternalError("Commit was not appended")
    return CommittedVersion(
        number=record.body.number, manifest=manifest.digest, fence=manifest.fence,
        step=manifest.progress.step, bytes=size, at=record.at,
    )  # fmt: skip


def put_with_retries(
    store: ObjectStore, key: str, data: bytes, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Put one object whose key no other bytes will ever use, so sending it again is harmless."""
    for attempt in range(_TRIES):
        try:
            store.put(key, data)
        except StoreUnavailableError:
            if attempt == _TRIES - 1:
                raise
            sleep(0.1 * 2**attempt)
        else:
            return
