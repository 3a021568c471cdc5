"""Does the storage do what Pawl needs, from here, now? Each question with its answer; writes two small probe objects."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ray_workers.store.clock import epoch_seconds
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import MissingError, PawlError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root, open_store
from ray_workers.store.probe import PROBE_PREFIX, probe_create_only

__all__ = ["Finding", "examine_storage"]

_SKEW_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One answer. `level`: `ok`, `warning` (it works, but), or `bad`."""

    what: str
    level: str
    told: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine_storage(url: str, credentials: S3Credentials | None = None) -> Iterator[Finding]:
    """Reached, readable, creates atomically, clocks agree. The first that is bad is the last."""
    try:
        store = open_store(url, credentials=credentials)
        root = open_root(url, create=False, credentials=credentials)
    except MissingError:
        yield Finding(
            what="storage",
            level="warning",
            told=f"{url}: there is no store yet; the first run makes it, and is refused if the place cannot serve",
        )
        return
    except PawlError as error:
        yield Finding(what="storage", level="bad", told=error.message)
        return
    yield Finding(what="storage", level="ok", told=f"{root.url} is readable ({store.kind})")
    try:
        probe_create_only(store)
    except PawlError as error:
        yield Finding(what="atomic create", level="bad", told=error.message)
        return
    yield Finding(
        what="atomic create",
        level="ok",
        told="a second create of one key is refused, the first bytes are kept",
    )
    yield _clock(store)


def _clock(store: ObjectStore) -> Finding:
    """No rule of safety rests on clocks; grace periods, ages and people's reading do."""
    key = f"{PROBE_PREFIX}clock-{uuid.uuid4().hex}"
    before = epoch_seconds()
    try:
        store.put_if_absent(key, b"clock")
        modified = store.head(key).modified
    except PawlError as error:
        return Finding(what="clock", level="warning", told=f"could not be compared: {error}")
    after = epoch_seconds()
    # Servers tell whole seconds.
    skew = max(before - 1 - modified, modified - after - 1, 0.0)
    _take_away(store, key)
    if skew > _SKEW_S:
        return Finding(
            what="clock",
            level="warning",
            told=f"this host and the store differ by {skew:.0f} s: ages and grace periods are wrong by as much",
        )
    return Finding(
        what="clock",
        level="ok",
        told=f"differs from the store's by at most {after - before + skew + 1:.1f} s",
    )


def _take_away(store: ObjectStore, key: str) -> None:
    """Take a probe away, if we may; it does no harm where it is."""
    try:
        store.delete(key)
    except PawlError:
        return
