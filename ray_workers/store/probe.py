"""The start probe: a store that does not keep create-only writes apart would lose runs, so it is refused at once."""

from __future__ import annotations

import contextlib
import json
import uuid

from ray_workers.store.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    PawlError,
    StoreRefusedError,
)
from ray_workers.store.object_store import ObjectStore

__all__ = ["PROBE_PREFIX", "probe_create_only"]

PROBE_PREFIX = "probe/"
"""Whatever lies here belongs to nobody: each probe has a key of its own and may be deleted at any time."""


def probe_create_only(store: ObjectStore) -> None:
    """Create a fresh object, create it again: the second must be refused and the first bytes kept (FORMAT.md §13).

    Raises:
        StoreRefusedError: the store ignores the condition, or may not be written or read with these credentials.
        StoreUnavailableError: the store did not answer.
    """
    key = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json"
    first, second = (json.dumps({"probe": uuid.uuid4().hex}).encode() for _ in range(2))
    # A client that resends after a lost answer meets its own object; the bytes decide below.
    with contextlib.suppress(ObjectExistsError):
        store.put_if_absent(key, first)
    try:
        store.put_if_absent(key, second)
    except ObjectExistsError:
        refused = True
    else:
        refused = False
    kept = _read(store, key) == first
    with contextlib.suppress(PawlError):  # training may lack the right to delete, and needs none
        store.delete(key)
    if not (refused and kept):
        what = "did not keep the first bytes of" if refused else "accepted a second write to"
        raise StoreRefusedError(
            f"The store {store.url} {what} an object that Pawl created on condition that it is absent. Without that "
            "condition two attempts can commit to one run: use a store that honours `If-None-Match: *` on PutObject.",
            key=key,
        )


def _read(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except ObjectNotFoundError:
        return None
