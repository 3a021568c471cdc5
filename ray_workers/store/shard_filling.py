"""A shard's tensors straight to where they belong: no second copy of the bytes, and no second pass to verify them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ray_workers.store.checksum import Hasher, check_known, mismatch
from ray_workers.store.errors import DigestMismatchError, InternalError, MalformedObjectError
from ray_workers.store.fetch import Ranges, fill, new_memory
from ray_workers.store.shards import (
    ShardEntry,
    ShardTensor,
    check_size,
    data_start,
    parse_header,
)

__all__ = ["WHOLE_BYTES", "Places", "fill_from", "fill_shard"]

WHOLE_BYTES = 1 << 20
"""Up to here a shard is better read whole, in one request."""

_HEAD_BYTES = 64 * 1024
"""Holds the header of several hundred tensors."""

Places = Callable[[tuple[ShardTensor, ...]], Sequence[memoryview | None]]
"""Gives writable memory of exactly its size for each tensor of a shard; None: it is not wanted."""


def fill_shard(source: Ranges, entry: ShardEntry, places: Places, *, tries: int = 2) -> None:
    """Read a shard, verified in the same pass; what was read may be used only when this has returned.

    Args:
        source: the shard's bytes.
        entry: what the manifest says of it.
        places: asked once a try, before the data are read and before the header is verified.
        tries: a mismatch is read once more by default, because the transfer may be at fault and not the object.

    Raises:
        DigestMismatchError, MalformedObjectError: it is not what was written. The places hold anything by then.
        ObjectNotFoundError: it is not there.
    """
    check_known(entry.digest, key=entry.key)
    try:
        _fill_once(source, entry, places)
    except (DigestMismatchError, MalformedObjectError):
        if tries == 1:
            raise
        fill_shard(source, entry, places, tries=tries - 1)


def fill_from(shard: memoryview, entry: ShardEntry, places: Places) -> None:
    """As `fill_shard`, from a shard that lies in memory, verified."""
    tensors = parse_header(shard, key=entry.key)
    start = data_start(shard, key=entry.key)
    for tensor, place in zip(tensors, places(tensors), strict=True):
        if place is not None and tensor.nbytes:
            place[:] = shard[start + tensor.offset :][: tensor.nbytes]


def _fill_once(source: Ranges, entry: ShardEntry, places: Places) -> None:
    # Before memory is asked for: a manifest may name any size.
    check_size(entry, source.size())
    head = _head(source, entry)
    tensors = parse_header(head, key=entry.key, size=entry.bytes)
    hasher = Hasher(check_known(entry.digest, key=entry.key))
    # Digested as they were parsed: the same bytes fetched again could be others.
    hasher.update(head)
    targets = [
        _target(tensor, place)
        for tensor, place in zip(tensors, places(tensors), strict=True)
        if tensor.nbytes
    ]
    fill(source, len(head), targets, hasher)
    found = hasher.digest()
    if found != entry.digest:
        raise mismatch(entry.key, expected=entry.digest, found=found)


def _target(tensor: ShardTensor, place: memoryview | None) -> memoryview:
    if place is None:
        small = tensor.nbytes < WHOLE_BYTES
        return memoryview(bytearray(tensor.nbytes)) if small else new_memory(tensor.nbytes)
    if len(place) != tensor.nbytes:
        # All that follows would stand in the wrong place, and the digest would still be right.
        raise InternalError(f"{tensor.name} has {tensor.nbytes} bytes and a place of {len(place)}")
    return place


def _head(source: Ranges, entry: ShardEntry) -> memoryview:
    """Everything before the data, not verified."""
    first = _read(source, min(entry.bytes, _HEAD_BYTES))
    end = data_start(first, key=entry.key)
    if end > entry.bytes:
        raise MalformedObjectError(
            f"{entry.key} is not a valid shard: its header is longer than it.", key=entry.key
        )
    return first[:end] if end <= len(first) else _read(source, end)


def _read(source: Ranges, length: int) -> memoryview:
    memory = memoryview(bytearray(length))
    found = source.read_into(0, memory)
    return memory[:found]
