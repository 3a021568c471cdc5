"""One version: its manifest, its shards, its tensors, its typed JSON (FORMAT.md §10, §11, §12), from that page alone."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from tests.support.stranger.fold import Version
from tests.support.stranger.log import Objects, canonical

__all__ = ["Content", "Tensor", "decode", "digest_of", "read_version"]

BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F4": 4,
}  # fmt: skip
MANIFEST = {
    "config", "created_at", "curve", "durations", "environment", "fence", "files", "format", "metrics", "parent",
    "payload", "plain", "progress", "rank_plain", "run_id", "shards", "tensors", "world_size", "write_id",
}  # fmt: skip
_HASHES: dict[str, Callable[[bytes], str]] = {
    "xxh3-128": lambda data: xxhash.xxh3_128(data).hexdigest(),
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
}


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Content:
    manifest: dict[str, Any]
    tensors: dict[str, Tensor]
    files: dict[str, bytes]


def read_version(objects: Objects, run: str, version: Version) -> Content:
    """Everything of a version, every digest checked; raises `ValueError` or `KeyError`."""
    manifest = read_manifest(objects, run, version)
    shards = [read_shard(objects, entry) for entry in manifest["shards"]]
    tensors = {path: assemble(layout, shards) for path, layout in manifest["tensors"].items()}
    for value in (manifest["plain"], *manifest["rank_plain"]):
        decode(value, tensors)
    files = {f["path"]: shards[f["shard"]][f["name"]].data for f in manifest["files"]}
    return Content(manifest, tensors, files)


def digest_of(data: bytes, algorithm: str) -> str:
    return f"{algorithm}:{_HASHES[algorithm](data)}"


def read_manifest(objects: Objects, run: str, version: Version) -> dict[str, Any]:
    data = objects[f"runs/{run}/manifests/{version.fence:020d}/{version.manifest}.json"]
    if hashlib.sha256(data).hexdigest() != version.manifest:
        raise ValueError("the manifest is damaged")
    manifest = json.loads(data)
    if manifest["format"] > 1:
        raise ValueError("a newer manifest")
    if set(manifest) != MANIFEST or canonical(manifest) != data:
        raise ValueError("no manifest")
    if (manifest["fence"], manifest["progress"]["step"]) != (version.fence, version.step):
        raise ValueError("the manifest belongs to another commit")
    if version.bytes != len(data) + sum(entry["bytes"] for entry in manifest["shards"]):
        raise ValueError("the commit counts other bytes")
    return dict(manifest)


def read_shard(objects: Objects, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    data = objects[entry["key"]]
    algorithm = entry["digest"].partition(":")[0]
    if len(data) != entry["bytes"] or digest_of(data, algorithm) != entry["digest"]:
        raise ValueError(f"{entry['key']} is damaged")
    return parse_shard(data)


def parse_shard(data: bytes) -> dict[str, Tensor]:
    """§11, rules 1 to 9."""
    length = int.from_bytes(data[:8], "little")
    if length > 33554432 or data[8:9] != b"{":
        raise ValueError("no header")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    content, tensors, expected = data[8 + length :], {}, 0
    for name, item in sorted(header.items(), key=lambda pair: pair[1]["data_offsets"]):
        begin, end = item["data_offsets"]
        size, odd = divmod(math.prod(item["shape"]) * BITS[item["dtype"]], 8)
        if begin != expected or end - begin != size or odd:
            raise ValueError("a hole, an overlap or a wrong size")
        tensors[name] = Tensor(item["dtype"], tuple(item["shape"]), content[begin:end])
        expected = end
    if expected != len(content):
        raise ValueError("bytes that belong to no tensor")
    return tensors


def assemble(layout: Mapping[str, Any], shards: list[dict[str, Tensor]]) -> Tensor:
    """§10, rules 12 and 13: every item of the tensor comes from exactly one chunk."""
    shape, width = tuple(layout["shape"]), BITS[layout["dtype"]] // 8
    items: dict[int, bytes] = {}
    for chunk in layout["chunks"]:
        part = shards[chunk["shard"]][chunk["name"]]
        if (part.dtype, part.shape) != (layout["dtype"], tuple(chunk["shape"])):
            raise ValueError("a chunk is of another type or shape")
        for number, place in enumerate(places(chunk, shape)):
            if place in items:
                raise ValueError("two chunks overlap")
            items[place] = part.data[number * width : (number + 1) * width]
    if len(items) != math.prod(shape):
        raise ValueError("the chunks leave a gap")
    return Tensor(layout["dtype"], shape, b"".join(items[i] for i in range(len(items))))


def places(chunk: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[int]:
    """Where the items of a chunk lie in the whole tensor, in row-major order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    for index in itertools.product(*(range(n) for n in chunk["shape"])):
        at = [o + i for o, i in zip(chunk["offsets"], index, strict=True)]
        if any(a >= n for a, n in zip(at, shape, strict=True)):
            raise ValueError("a chunk lies outside")
        yield sum(a * stride for a, stride in zip(at, strides, strict=True))


# --- §12 --------------------------------------------------------------------------------------

_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_PATHS = {"$tensor", "$ndarray", "$bytes_tensor", "$complex_tensor", "$complex_ndarray"}
_AS_STORED = {"$scalar", "$dtype", "$device"}


def decode(value: Any, tensors: Mapping[str, Tensor], depth: int = 0) -> Any:
    """Typed JSON as Python values; what only numpy or torch can make stays (marker, content)."""
    if depth > 100:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [decode(item, tensors, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(name.startswith("$") for name in value):
        return {name: decode(item, tensors, depth + 1) for name, item in value.items()}
    ((marker, content),) = value.items()
    if marker in _PATHS:
        tensor = tensors[content]
        return tensor.data if marker == "$bytes_tensor" else (marker, tensor)
    return (
        (marker, content)
        if marker in _AS_STORED
        else decode_marker(marker, content, tensors, depth)
    )


def pairs(items: list[Any]) -> dict[Any, Any]:
    found = dict(items)
    if len(found) != len(items):
        raise ValueError("a key stands twice")
    return found


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "$map": pairs, "$ordered": pairs, "$counter": pairs, "$tuple": tuple, "$size": tuple, "$set": set,
    "$frozenset": frozenset, "$complex": lambda items: complex(*items),
}  # fmt: skip


def decode_marker(marker: str, content: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if marker == "$float":
        return _FLOATS[content]
    if marker == "$bytes":
        return base64.b64decode(content, validate=True)
    return _MAKERS[marker](decode(content, tensors, depth))
