"""The code under test, made repeatable and quick: no threads, no clock, ids from the seed, nothing parsed twice."""

from __future__ import annotations

import contextlib
import functools
import random
import uuid
from collections.abc import Iterable, Iterator

import pytest
from typing_extensions import Buffer

from ray_workers.store import key_syntax
from ray_workers.store import log as log_module
from ray_workers.store.commit import commit_version, put_with_retries
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader, Slot
from ray_workers.store.manifest import Manifest
from ray_workers.store.records import Record
from tests.support.simulation.processes import Process

__all__ = ["seed_ids", "simulated"]

_REMEMBERED = 4096
_ids = random.Random(0)  # noqa: S311 - to be drawn again, not secrets


def seed_ids(seed: int) -> None:
    """From here on every id is drawn from `seed`."""
    _ids.seed(seed)


@contextlib.contextmanager
def simulated(*, cache_every: int | None = None) -> Iterator[None]:
    """Within this, real code runs as the simulation needs it.

    Args:
        cache_every: slots between two fold caches, if another number than the real one.
    """
    with pytest.MonkeyPatch.context() as patch:
        for function in (RunLog.__init__, commit_version, put_with_retries):
            patch.setitem(function.__kwdefaults__ or {}, "sleep", Process.sleep)
        patch.setattr(LogReader, "read_many", _read_one_by_one)
        patch.setattr(log_module, "utc_now", lambda: "2026-11-24T00:00:00.000+00:00")
        patch.setattr(key_syntax, "is_key", functools.lru_cache(_REMEMBERED)(key_syntax.is_key))
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=_ids.getrandbits(128)))
        _parse_once(patch)
        if cache_every is not None:
            patch.setattr(log_module, "CACHE_EVERY_SLOTS", cache_every)
        yield


def _read_one_by_one(self: LogReader, slots: Iterable[int]) -> list[Slot]:
    return [self.read(slot) for slot in slots]


def _parse_once(patch: pytest.MonkeyPatch) -> None:
    """Records and manifests are frozen and named by their bytes, so the second reading gives the first one's value."""
    parse_record, parse_manifest = Record.from_bytes, Manifest.from_bytes

    @functools.lru_cache(_REMEMBERED)
    def record(data: bytes, key: str, slot: int) -> Record:
        return parse_record(data, key=key, slot=slot)

    @functools.lru_cache(_REMEMBERED)
    def manifest(data: bytes, key: str) -> Manifest:
        return parse_manifest(data, key=key)

    def record_from_bytes(_: type[Record], data: bytes, *, key: str, slot: int) -> Record:
        return record(data, key, slot)

    def manifest_from_bytes(_: type[Manifest], data: Buffer, *, key: str = "manifest") -> Manifest:
        return manifest(bytes(data), key)

    patch.setattr(Record, "from_bytes", classmethod(record_from_bytes))
    patch.setattr(Manifest, "from_bytes", classmethod(manifest_from_bytes))
