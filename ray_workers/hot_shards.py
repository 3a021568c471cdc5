"""Hot restore: shards of the version to come back to that still lie in this node's staging files.

A staging file outlives the worker that filled it and the agent that stored it. Beside it lies a note of what was stored
from it. A note is a hint: the buffer may have been filled anew since. So the bytes are digested before anybody gets
them, as if they came from the store, and whatever does not hold is read from the store, shard by shard.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_workers.host_copy import CopySegment, copy_releasing
from ray_workers.staging_files import NOTE_SUFFIX, StagingFolder
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import DigestMismatchError, MalformedObjectError
from ray_workers.store.fetch import copies_at_once
from ray_workers.store.shard_filling import Places, fill_shard
from ray_workers.store.shards import ShardEntry

__all__ = ["HotShards", "fill_from_file", "note_stored"]

_PART_BYTES = 4 << 20
"""Digested before it leaves the processor's cache."""

_log = logging.getLogger("pawl.restore")


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    begin: int


def note_stored(path: str, begins: Sequence[int], entries: Sequence[ShardEntry]) -> None:
    """Write down which shards lie in a staging file, and where. A note that cannot be written costs only speed."""
    held = [
        {"begin": begin, "bytes": entry.bytes, "digest": entry.digest}
        for begin, entry in zip(begins, entries, strict=True)
    ]
    fresh = Path(f"{path}{NOTE_SUFFIX}.new")
    with suppress(OSError):
        fresh.write_text(json.dumps(held))
        fresh.replace(f"{path}{NOTE_SUFFIX}")


class HotShards:
    """What the staging files of earlier attempts of a run on this node hold, while a restore lasts.

    Args:
        staging: whose run is looked for.
    """

    def __init__(self, staging: StagingFolder) -> None:
        self._places: dict[tuple[str, int], list[_Place]] = {}
        for path in staging.noted():
            for item in _noted(path):
                key = (str(item["digest"]), int(item["bytes"]))
                self._places.setdefault(key, []).append(_Place(str(path), int(item["begin"])))
        self._found: list[int] = []

    @property
    def bytes_found(self) -> int:
        """Of all shards handed out so far."""
        return sum(self._found)

    def read(self, entry: ShardEntry) -> memoryview | None:
        """The shard, its digest verified, or None. It stays as it is as long as the view is held."""
        for place in self._places.get((entry.digest, entry.bytes), ()):
            with suppress(OSError, ValueError):
                shard = _mapped(place, entry.bytes)
                if digest_of(shard) == entry.digest:
                    self._found.append(entry.bytes)
                    return shard
                _log.info("%s was filled anew since it was stored", place.path)
        return None

    def fill(self, entry: ShardEntry, places: Places) -> bool:
        """As `read`, straight to where the tensors belong; False: it is not here, and the places hold anything."""
        for place in self._places.get((entry.digest, entry.bytes), ()):
            if _fill(place, entry, places):
                self._found.append(entry.bytes)
                return True
        return False


def fill_from_file(path: Path, entry: ShardEntry, places: Places) -> bool:
    """Fill from a file that holds the shard alone, its digest verified; False: it does not, and the places hold anything.

    Nobody may write to it any more.
    """
    return _fill(_Place(str(path), 0), entry, places, lock=False)


def _fill(place: _Place, entry: ShardEntry, places: Places, *, lock: bool = True) -> bool:
    with suppress(OSError, ValueError, DigestMismatchError, MalformedObjectError):
        held = _HeldRanges(_mapped(place, entry.bytes, lock=lock), place.path)
        fill_shard(held, entry, places, tries=1)
        return True
    return False


@dataclass(frozen=True, slots=True)
class _HeldRanges:
    """A shard in this node's memory, as `store.fetch.Ranges`."""

    memory: memoryview
    key: str

    @property
    def part_bytes(self) -> int:
        return _PART_BYTES

    @property
    def reads_at_once(self) -> int:
        return copies_at_once()

    def size(self) -> int:
        return len(self.memory)

    def read_into(self, start: int, *targets: memoryview) -> int:
        begin = start
        for target in targets:
            source = self.memory[start : start + len(target)]
            copy_releasing(CopySegment(_address(target), _address(source), len(source)))
            start += len(source)
        return start - begin


def _address(memory: memoryview) -> int:
    # ctypes gives none of a buffer that cannot be written to.
    return int(np.frombuffer(memory, dtype=np.uint8).ctypes.data) if memory else 0


def _noted(path: Path) -> list[dict[str, Any]]:
    with suppress(OSError, ValueError):
        held = json.loads(Path(f"{path}{NOTE_SUFFIX}").read_text())
        if isinstance(held, list) and all(_is_place(item) for item in held):
            return held
    return []


def _is_place(item: object) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("digest"), str)
        and all(type(item.get(name)) is int and item[name] >= 0 for name in ("begin", "bytes"))
    )


def _mapped(place: _Place, length: int, *, lock: bool = True) -> memoryview:
    """A piece of the file, which no worker can fill meanwhile. Raises `OSError` when one is still alive that could."""
    descriptor = os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        # A worker holds its files exclusively as long as it lives. The mapping keeps our lock, and goes with the view.
        if lock:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_size < place.begin + length:
            raise ValueError("the file is shorter than its note says")
        page = place.begin - place.begin % mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(
            descriptor, place.begin - page + length, access=mmap.ACCESS_READ, offset=page
        )
    finally:
        os.close(descriptor)
    return memoryview(mapping)[place.begin - page :]
