"""The code under test, made repeatable and quick: no threads, no clock, ids from the seed, nothing parsed twice."""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import pytest
from typing_extensions import Buffer

from ray_workers.store import key_syntax
from ray_workers.store import log as log_module
from ray_workers.store.commit import commit_version, put_with_retries
from ray_workers.store.log import RunLog
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
        for name, module in list(sys.modules.items()):
            if name.startswith("ray_workers.") and hasattr(module, "ThreadPoolExecutor"):
                patch.setattr(module, "ThreadPoolExecutor", _OneByOne)
        patch.setattr(log_module, "utc_now", lambda: "2026-11-24T00:00:00.000+00:00")
        _stand_still(patch)
        patch.setattr(key_syntax, "is_key", functools.lru_cache(_REMEMBERED)(key_syntax.is_key))
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=_ids.getrandbits(128)))
        _parse_once(patch)
        if cache_every is not None:
            patch.setattr(log_module, "CACHE_EVERY_SLOTS", cache_every)
        yield


class _OneByOne:
    """Stands in for a pool of threads, so that one seed gives one order."""

    def __init__(self, workers: int) -> None:
        del workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to wait for."""

    def map(self, call: Callable[..., Any], *items: Iterable[Any]) -> list[Any]:
        return [call(*each) for each in zip(*items, strict=False)]


def _stand_still(patch: pytest.MonkeyPatch) -> None:
    """What a check took stands in its verdict, and thereby in every digest above it.

    Our own modules alone: what else runs in this process keeps its clock.
    """
    standing = types.SimpleNamespace(**vars(time) | {"monotonic": lambda: 0.0})
    for name, module in list(sys.modules.items()):
        if name.startswith("ray_workers.") and getattr(module, "time", None) is time:
            patch.setattr(module, "time", standing)


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
