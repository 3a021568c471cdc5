"""Shards: safetensors files, written and read without the safetensors library (FORMAT.md §11).

Layout: 8 bytes header length (little endian), a JSON header, the data of all tensors without holes. The header is
padded with spaces so that data begin at a multiple of 64 bytes, and tensors are ordered by descending item size, so that
every tensor is aligned to its item. Nothing in a shard tells time, host or attempt: equal state gives equal bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import Buffer

from ray_workers.store.checksum import check_known, mismatch, verify
from ray_workers.store.errors import DigestMismatchError, InvalidInputError, MalformedObjectError
from ray_workers.store.fetch import PART_BYTES, fetch, new_memory
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.strict_json import Fields, parse_json

__all__ = [
    "DTYPE_BITS",
    "MAX_HEADER_BYTES",
    "ShardEntry",
    "ShardTensor",
    "arrange",
    "build_header",
    "check_size",
    "data_start",
    "nbytes_of",
    "parse_header",
    "read_shard",
]

DTYPE_BITS: dict[str, int] = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "I8": 8, "U8": 8, "BOOL": 8,
    "F4": 4,
}  # fmt: skip
"""Bits per item by safetensors' name of the type. C64 is two 32-bit floats."""

MAX_HEADER_BYTES = 32 * 1024 * 1024
"""About 200 000 tensors. Bounds what a damaged length field can make a reader allocate."""

_ALIGNMENT = 64
_LENGTH_BYTES = 8
_MAX_BYTES = 2**63 - 1
_MAX_DIMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTensor:
    """One tensor (often one chunk of a larger one) in a shard."""

    name: str
    dtype: str
    """safetensors' name, such as `F32`."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the shard's data, not of the file: add `data_start`."""
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A shard as a manifest names it; two shards of one rank differ in their key."""

    rank: int
    """Whose upload it was; information only."""
    key: str
    bytes: int
    digest: str


def nbytes_of(dtype: str, shape: Sequence[int]) -> int:
    """Size of a tensor's data. Raises `ValueError` when the type is unknown or the size cannot be."""
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise ValueError(f"unknown type {dtype[:40]!r}")
    if len(shape) > _MAX_DIMS or any(dim > _MAX_BYTES for dim in shape):
        raise ValueError("impossible shape")
    total = bits * math.prod(shape)
    if total % 8 or total // 8 > _MAX_BYTES:
        raise ValueError(f"impossible size for {dtype}")
    return total // 8


def arrange(specs: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[ShardTensor, ...]:
    """Place tensors, given as (name, dtype, shape), one after the other; the order depends on the set alone."""
    placed: list[ShardTensor] = []
    offset = 0
    for name, dtype, shape in sorted(specs, key=_placing_order):
        try:
            nbytes = nbytes_of(dtype, shape)
        except ValueError as error:
            raise InvalidInputError(f"The tensor {name!r} cannot be stored: {error}.") from None
        placed.append(
            ShardTensor(name=name, dtype=dtype, shape=tuple(shape), offset=offset, nbytes=nbytes)
        )
        offset += nbytes
    return tuple(placed)


def _placing_order(spec: tuple[str, str, tuple[int, ...]]) -> tuple[int, str]:
    return -DTYPE_BITS.get(spec[1], 0), spec[0]


def build_header(tensors: Sequence[ShardTensor]) -> bytes:
    """Everything before the data, for tensors as `arrange` placed them; its length is a multiple of 64."""
    table: dict[str, Any] = {}
    for tensor in tensors:
        if tensor.name in table or tensor.name == "__metadata__":
            raise InvalidInputError(
                f"The tensor name {tensor.name!r} is taken: rename one of the two."
            )
        ends = [tensor.offset, tensor.offset + tensor.nbytes]
        table[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": ends,
        }
    try:
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInputError("A tensor's name is no valid Unicode text: rename it.") from None
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidInputError(
            f"{len(table)} tensors are too many for one shard: merge small ones."
        )
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def data_start(data: Buffer, *, key: str = "shard") -> int:
    """Offset of the data in a shard, of which at least the first eight bytes are given."""
    return _LENGTH_BYTES + _header_length(memoryview(data).cast("B"), key)


def parse_header(
    data: Buffer, *, key: str = "shard", size: int | None = None
) -> tuple[ShardTensor, ...]:
    """The tensors of a shard, in the order of their data.

    Args:
        data: the whole shard, or a beginning that holds the whole header; then give `size`.
        key: for the error message.
        size: bytes of the whole shard; default: `data` is whole.

    Raises:
        MalformedObjectError: anything but a valid safetensors file: bounds, overlap, holes, duplicates, sizes that do
            not fit the shape, an unknown type, a header above `MAX_HEADER_BYTES`.
    """
    view = memoryview(data).cast("B")
    size = view.nbytes if size is None else size
    end = _LENGTH_BYTES + _header_length(view, key)
    if end > min(size, view.nbytes):
        raise _malformed(key, f"a header of {end} bytes in {min(size, view.nbytes)} bytes")
    try:
        return _parse_table(view[_LENGTH_BYTES:end], data_bytes=size - end)
    except ValueError as error:
        raise _malformed(key, str(error)) from None


def _header_length(view: memoryview, key: str) -> int:
    if view.nbytes < _LENGTH_BYTES:
        raise _malformed(key, f"only {view.nbytes} bytes")
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise _malformed(key, f"a header of {length} bytes, more than {MAX_HEADER_BYTES}")
    return length


def _parse_table(header: memoryview, *, data_bytes: int) -> tuple[ShardTensor, ...]:
    if bytes(header[:1]) != b"{":
        raise ValueError("the header does not begin with '{'")
    table = parse_json(header, limit=MAX_HEADER_BYTES)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ is not a map of strings")
    tensors = sorted(
        (_parse_tensor(name, value) for name, value in table.items()),
        key=lambda tensor: (tensor.offset, tensor.offset + tensor.nbytes),
    )
    expected = 0
    for tensor in tensors:
        if tensor.offset != expected:
            kind = (
                "overlaps the one before" if tensor.offset < expected else "leaves a hole before it"
            )
            raise ValueError(f"tensor {tensor.name[:80]!r} {kind}")
        expected += tensor.nbytes
    if expected != data_bytes:
        raise ValueError(f"the tensors need {expected} bytes, but {data_bytes} are there")
    return tuple(tensors)


def _parse_tensor(name: str, value: Any) -> ShardTensor:
    with Fields(value, f"tensor {name[:80]!r}") as fields:
        dtype, shape = fields.text("dtype"), fields.integers("shape")
        begin, end = fields.integers("data_offsets")
    if end - begin != nbytes_of(dtype, shape):
        raise ValueError(f"tensor {name[:80]!r}: data_offsets do not fit its type and shape")
    return ShardTensor(name=name, dtype=dtype, shape=shape, offset=begin, nbytes=end - begin)


def _malformed(key: str, reason: str) -> MalformedObjectError:
    return MalformedObjectError(f"{key} is not a valid shard: {reason}.", key=key)


def read_shard(
    store: ObjectStore, entry: ShardEntry, memory: Callable[[int], memoryview] = new_memory
) -> bytes | memoryview:
    """The whole shard, size and digest verified before a byte is handed out.

    A large one is read in parallel ranges and digested in the same pass. A mismatch is read once more, because the
    transfer may be at fault and not the object.

    Args:
        store: where it is.
        entry: what the manifest says of it.
        memory: gives writable memory of so many bytes for a large shard.

    Raises:
        DigestMismatchError: both reads gave other bytes than were written.
        ObjectNotFoundError: it is not there.
    """
    if entry.bytes > PART_BYTES:
        # Before memory is asked for: a manifest may name any size.
        check_size(entry, store.head(entry.key).size)
        return _read_large(store, entry, memory(entry.bytes))
    try:
        return _read_once(store, entry)
    except DigestMismatchError:
        return _read_once(store, entry)


def _read_once(store: ObjectStore, entry: ShardEntry) -> bytes:
    data = store.get(entry.key, at_most=entry.bytes)
    check_size(entry, len(data))
    verify(data, entry.digest, key=entry.key)
    return data


def _read_large(store: ObjectStore, entry: ShardEntry, target: memoryview) -> memoryview:
    algorithm = check_known(entry.digest, key=entry.key)
    try:
        return _fetch_once(store, entry, target, algorithm)
    except DigestMismatchError:
        return _fetch_once(store, entry, target, algorithm)


def _fetch_once(
    store: ObjectStore, entry: ShardEntry, target: memoryview, algorithm: str
) -> memoryview:
    check_size(entry, store.head(entry.key).size)
    found = fetch(store, entry.key, target, algorithm)
    if found != entry.digest:
        raise mismatch(entry.key, expected=entry.digest, found=found)
    return target


def check_size(entry: ShardEntry, found: int) -> None:
    """Raise `DigestMismatchError` unless the object has as many bytes as were written."""
    if found != entry.bytes:
        raise DigestMismatchError(
            f"{entry.key} is damaged: it has {found} bytes, but {entry.bytes} were written.",
            key=entry.key,
            expected=entry.bytes,
            found=found,
        )
