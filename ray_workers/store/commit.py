"""The commit protocol: shards are durable, then the manifest, then one record (FORMAT.md §9)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from ray_workers.store import keys
from ray_workers.store.bodies import Commit, VersionName
from ray_workers.store.errors import (
    DigestMismatchError,
    InternalError,
    RuleRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.keys import data_fence
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.rules import check_fence
from ray_workers.store.run_state import RunState
from ray_workers.store.shards import ShardEntry

__all__ = ["Base", "CommittedVersion", "check_references", "commit_version", "put_with_retries"]

_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """An earlier version whose shards a new one names instead of sending them again."""

    name: VersionName
    shards: tuple[ShardEntry, ...]
    """All that its manifest names."""
    reused: frozenset[str]
    """Keys among them that the new version names too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedVersion:
    number: int
    manifest: str
    fence: int
    step: int
    bytes: int
    """Of the manifest and of all shards that it names."""
    bytes_new: int
    """Without those that its base named already."""
    at: str


def commit_version(
    store: ObjectStore,
    log: RunLog,
    manifest: Manifest,
    *,
    base: Base | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> CommittedVersion:
    """Make a version of shards that are already durable.

    The order is the invariant: whoever finds the record finds the manifest, whoever finds the manifest finds the shards.
    Nothing is deleted on failure: an unanswered write may still land (FORMAT.md §6).

    Args:
        store: where the run lives.
        log: the run's log.
        manifest: what to commit; every shard that is not of `base` was stored for this version, under its own fence.
        base: set if the manifest names shards of an earlier version.
        sleep: pause in seconds; replaced in tests.

    Raises:
        FenceLostError: a newer attempt owns the run. Nothing was committed.
        RuleRefusedError: the step is not above this attempt's last, or the base may not be built on any more. Nothing
            was committed.
        InvalidInputError: the manifest is larger than a reader takes. Nothing was committed.
        OutcomeUnknownError: the record was sent, and may be in the log or appear there. Nothing may be undone.
        StoreUnavailableError: the manifest could not be stored. Nothing was committed.
    """
    check_fence(log.refresh(), manifest.fence)
    check_references(log.state, manifest, base)
    data = manifest.to_bytes()
    digest = hashlib.sha256(data).hexdigest()  # of many ranks it is many megabytes, spelled once
    key = keys.manifest_key(log.state.run, manifest.fence, digest)
    put_with_retries(store, key, data, sleep=sleep)
    if store.get(key) != data:
        raise DigestMismatchError(
            f"{key} reads back other bytes than were written; the version is dropped.", key=key
        )
    size = len(data) + sum(shard.bytes for shard in manifest.shards)
    shared = sum(shard.bytes for shard in manifest.shards if base and shard.key in base.reused)

    def decide(state: RunState) -> Commit:
        return Commit(
            fence=manifest.fence, number=state.next_number, manifest=digest,
            step=manifest.progress.step, bytes=size, base=base.name if base is not None else None,
        )  # fmt: skip

    # The commit point. Before this record no reader knows the version; after it the version is durable and whole.
    record = log.append(decide)
    if record is None or not isinstance(record.body, Commit):
        raise InternalError("Commit was not appended")
    return CommittedVersion(
        number=record.body.number, manifest=digest, fence=manifest.fence,
        step=manifest.progress.step, bytes=size, bytes_new=size - shared, at=record.at,
    )  # fmt: skip


def check_references(state: RunState, manifest: Manifest, base: Base | None) -> None:
    """Raise `RuleRefusedError` unless every shard that was stored before is one of the base, as the base names it.

    The base is kept when the commit lands (FORMAT.md §6), and so is what it names; nothing else that was stored before
    is protected from a sweep.
    """
    reused = frozenset[str]() if base is None else base.reused
    known = {} if base is None else {s.key: (s.bytes, s.digest) for s in base.shards}
    for shard in manifest.shards:
        written = data_fence(shard.key)
        own = written is not None and (written.run, written.fence) == (state.run, manifest.fence)
        if shard.key in reused:
            allowed = known.get(shard.key) == (shard.bytes, shard.digest)
        else:
            allowed = own
        if not allowed:
            raise RuleRefusedError(
                f"Run {state.run!r} refuses Commit: {shard.key} was stored for an earlier version and is not what the base "
                "names.",
                run=state.run,
                rule=Commit.kind,
            )


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
