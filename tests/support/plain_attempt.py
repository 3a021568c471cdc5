"""A whole attempt on the log and its objects, without Ray, torch and flow: what the sweep over storage calls drives."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from ray_workers.store import keys
from ray_workers.store.attempts import create_run, end_attempt, start_attempt
from ray_workers.store.bodies import ResumeChosen
from ray_workers.store.checksum import digest_of
from ray_workers.store.commit import commit_version, put_with_retries
from ray_workers.store.errors import (
    ConflictError,
    DamageError,
    ObjectNotFoundError,
    RetryableError,
    StoreUnavailableError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Manifest, Progress, ShardEntry
from ray_workers.store.object_store import ObjectStore
from tests.support.faulty_store import Died
from tests.support.plain_log import RUN

__all__ = ["Pauses", "Told", "attempt"]

SHARD = b"a shard"
PAUSES = 4


class Pauses:
    """What happens while a process waits to ask again; the one that waits too often is killed."""

    def __init__(self) -> None:
        self.begin(lambda: None)

    def begin(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile
        self._left = PAUSES

    def __call__(self, _: float) -> None:
        self._meanwhile()
        self._left -= 1
        if not self._left:
            raise Died("killed while it waited")


@dataclass(slots=True)
class Told:
    """What a process told the world about its commits, by manifest digest."""

    committed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def attempt(store: ObjectStore, told: Told, flow: str, *, versions: int = 2) -> None:
    """A whole attempt, as the flow runs it: run, fence, resume point, versions, end."""
    log = create_run(store, RUN, by={})
    fence = start_attempt(log, flow_run_id=flow, run_count=1)
    newest = next((v for v in log.state.newest_first() if v.candidate), None)
    chosen = ResumeChosen(
        fence=fence, version=None if newest is None else newest.name, required="committed"
    )
    log.append(lambda _: chosen)
    step = 0 if newest is None else newest.step
    for _ in range(versions):
        step += 1
        save(store, log, told, fence, step)
    end_attempt(log, fence, "completed")


def save(store: ObjectStore, log: RunLog, told: Told, fence: int, step: int) -> None:
    key = keys.new_shard_key(RUN, fence)
    try:
        put_with_retries(store, key, SHARD)
    except StoreUnavailableError:
        return
    manifest = _manifest(log, fence, step, key)
    try:
        done = commit_version(store, log, manifest)
    except (ConflictError, DamageError, ObjectNotFoundError):
        told.failed.append(manifest.digest)
    except RetryableError:
        told.unknown.append(manifest.digest)
    else:
        told.committed.append(done.manifest)


def _manifest(log: RunLog, fence: int, step: int, key: str) -> Manifest:
    entry = ShardEntry(rank=0, key=key, bytes=len(SHARD), digest=digest_of(SHARD))
    return Manifest(
        payload="files",
        run_id=str(log.state.run_id),
        fence=fence,
        write_id=uuid.uuid4().hex,
        created_at="2026-11-24T00:00:00Z",
        parent=None,
        progress=Progress(step=step, epoch=0, finished=False),
        world_size=1,
        shards=(entry,),
    )
