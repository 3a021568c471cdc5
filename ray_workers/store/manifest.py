"""The manifest: everything about one version but the tensor bytes; immutable, canonical JSON (FORMAT.md §10).

A version is named by the SHA-256 of its manifest's bytes, and the manifest names every shard with its digest: one
digest in the log vouches for everything below it. Reading is strict: a field too many, a wrong type, or another
spelling of the same value is a `MalformedObjectError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import Buffer

from ray_workers.store.checksum import is_digest
from ray_workers.store.errors import InvalidInputError, MalformedObjectError, NewerFormatError
from ray_workers.store.keys import data_fence
from ray_workers.store.layout import Chunk, TensorLayout, check_cover, merge_layouts
from ray_workers.store.manifest_parts import (
    MAX_CURVE_POINTS,
    Curve,
    FileEntry,
    Progress,
    VersionRef,
    check_timestamp,
)
from ray_workers.store.records import canonical_json
from ray_workers.store.shards import ShardEntry, nbytes_of
from ray_workers.store.strict_json import Fields, encode_float, parse_json

__all__ = [
    "DROPPED_REASON",
    "DROPPED_SAVES",
    "MANIFEST_FORMAT",
    "MAX_CURVE_POINTS",
    "MAX_MANIFEST_BYTES",
    "Chunk",
    "Curve",
    "FileEntry",
    "Manifest",
    "Progress",
    "ShardEntry",
    "TensorLayout",
    "VersionRef",
    "check_coverage",
    "merge_layouts",
]

MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 256 * 1024 * 1024
DROPPED_SAVES = "dropped_saves"
"""In `environment`: saves of the attempt since its version before that became no version, if there were any."""
DROPPED_REASON = "dropped_reason"
"""In `environment`: why the last of them was dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version. `payload` "state" fills `plain`, `rank_plain` and `tensors`; "files" fills `files`.

    Raises `InvalidInputError` on construction when a value is out of its range.
    """

    payload: Literal["state", "files"]
    run_id: str
    fence: int
    write_id: str
    created_at: str
    """UTC, ISO 8601; information only."""
    parent: VersionRef | None
    progress: Progress
    world_size: int
    shards: tuple[ShardEntry, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, Curve] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Library versions; also `DROPPED_SAVES` and `DROPPED_REASON` after saves that became no version."""
    plain: Any = None
    """Typed JSON of what all ranks share; its tensors are named by path."""
    rank_plain: tuple[Any, ...] = ()
    """Typed JSON of each rank's own state."""
    tensors: Mapping[str, TensorLayout] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    durations: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase."""
    format: int = MANIFEST_FORMAT

    def __post_init__(self) -> None:
        try:
            _check_values(self)
        except ValueError as error:
            raise InvalidInputError(f"The manifest cannot be made: {error}.") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, hex: the name of the version's content."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Canonical JSON of at most `MAX_MANIFEST_BYTES`; equal manifests give equal bytes."""
        try:
            data = canonical_json(_to_json(self))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"The manifest cannot be written as JSON: {error}. Use strings, finite numbers, booleans, lists and "
                "dicts with string keys in the configuration and in plain state."
            ) from None
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidInputError(
                f"The manifest would have {len(data)} bytes, and no reader takes more than {MAX_MANIFEST_BYTES}: shard the "
                "tensors over fewer ranks (a group of them, replicated over the others), or merge small tensors."
            )
        return data

    @classmethod
    def from_bytes(cls, data: Buffer, *, key: str = "manifest") -> Manifest:
        """Parse strictly; whether the digest is right is the caller's check.

        Raises:
            MalformedObjectError: it is no manifest of format 1.
            NewerFormatError: it says it is of a later format.
        """
        try:
            value = parse_json(data, limit=MAX_MANIFEST_BYTES)
            _refuse_newer(value, key)
            manifest = _from_json(value)
            _refuse_other_spelling(manifest, data)
        except (ValueError, InvalidInputError, RecursionError) as error:
            raise MalformedObjectError(
                f"{key} is not a valid manifest: {error}.", key=key
            ) from None
        return manifest


def _check_values(manifest: Manifest) -> None:
    if manifest.payload not in ("state", "files"):
        raise ValueError(f"unknown payload {manifest.payload!r}")
    if manifest.fence < 1 or manifest.world_size < 1:
        raise ValueError("fence and world_size must be at least 1")
    if manifest.files and manifest.payload != "files":
        raise ValueError("only the payload 'files' has files")
    if (manifest.tensors or manifest.rank_plain) and manifest.payload != "state":
        raise ValueError("only the payload 'state' has tensors")
    if not manifest.run_id or not manifest.write_id:
        raise ValueError("run_id and write_id must not be empty")
    check_timestamp(manifest.created_at)


def _to_json(manifest: Manifest) -> dict[str, Any]:
    parent = manifest.parent
    return {
        "format": manifest.format,
        "payload": manifest.payload,
        "run_id": manifest.run_id,
        "fence": manifest.fence,
        "write_id": manifest.write_id,
        "created_at": manifest.created_at,
        "parent": None if parent is None else parent.to_json(),
        "progress": manifest.progress.to_json(),
        "metrics": _floats(manifest.metrics),
        "curve": {name: curve.to_json() for name, curve in manifest.curve.items()},
        "config": dict(manifest.config),
        "world_size": manifest.world_size,
        "environment": dict(manifest.environment),
        "plain": manifest.plain,
        "rank_plain": list(manifest.rank_plain),
        "tensors": {path: layout.to_json() for path, layout in manifest.tensors.items()},
        "files": [entry.to_json() for entry in manifest.files],
        "shards": [_shard_to_json(entry) for entry in manifest.shards],
        "durations": _floats(manifest.durations),
    }


def _from_json(value: Any) -> Manifest:
    with Fields(value, "manifest") as fields:
        parent = fields.take("parent")
        return Manifest(
            format=fields.integer("format"),
            payload=fields.text("payload"),  # type: ignore[arg-type] # checked on construction
            run_id=fields.text("run_id"),
            fence=fields.integer("fence"),
            write_id=fields.text("write_id"),
            created_at=fields.text("created_at"),
            parent=None if parent is None else VersionRef.from_json(Fields(parent, "parent")),
            progress=Progress.from_json(Fields(fields.take("progress"), "progress")),
            metrics=fields.floats("metrics"),
            curve={name: Curve.from_json(item) for name, item in fields.named_objects("curve")},
            config=fields.mapping("config"),
            world_size=fields.integer("world_size"),
            environment=fields.texts("environment"),
            plain=fields.take("plain"),
            rank_plain=tuple(fields.items("rank_plain")),
            tensors={
                path: TensorLayout.from_json(item) for path, item in fields.named_objects("tensors")
            },
            files=tuple(FileEntry.from_json(item) for item in fields.objects("files")),
            shards=tuple(_shard_from_json(item) for item in fields.objects("shards")),
            durations=fields.floats("durations"),
        )


def _refuse_newer(value: Any, key: str) -> None:
    found = value.get("format") if isinstance(value, dict) else None
    if type(found) is int and found > MANIFEST_FORMAT:
        raise NewerFormatError(
            f"{key} has format {found}; this Pawl reads format {MANIFEST_FORMAT}: upgrade Pawl.",
            key=key,
        )
    if found != MANIFEST_FORMAT or type(found) is not int:
        raise ValueError(f"expected format {MANIFEST_FORMAT}")


def _refuse_other_spelling(manifest: Manifest, data: Buffer) -> None:
    # One value has one spelling; otherwise two names (digests) could mean one version.
    if canonical_json(_to_json(manifest)) != memoryview(data):
        raise ValueError("it is not spelled canonically")


def _floats(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: encode_float(value) for name, value in values.items()}


def _shard_to_json(entry: ShardEntry) -> dict[str, Any]:
    return {"rank": entry.rank, "key": entry.key, "bytes": entry.bytes, "digest": entry.digest}


def _shard_from_json(fields: Fields) -> ShardEntry:
    with fields:
        return ShardEntry(
            rank=fields.integer("rank"),
            key=fields.text("key"),
            bytes=fields.integer("bytes"),
            digest=fields.text("digest"),
        )


def check_coverage(manifest: Manifest, *, key: str = "manifest") -> None:
    """Return if the manifest names everything a reader needs, without reading a shard.

    Every tensor is covered exactly once by its chunks; every chunk and file lies in a listed shard, under a name of
    its own; every shard is a shard key of this store with a digest, and large enough for what it must hold.

    Raises:
        MalformedObjectError: it says which tensor, file or shard, and why.
    """
    try:
        _check_shards(manifest)
        _check_tensors(manifest)
        _check_contents(manifest)
    except ValueError as error:
        raise MalformedObjectError(
            f"{key} does not describe a whole version: {error}.", key=key
        ) from None


def _check_shards(manifest: Manifest) -> None:
    for entry in manifest.shards:
        if data_fence(entry.key) is None or not entry.key.endswith(".safetensors"):
            raise ValueError(f"{entry.key[:120]!r} is no shard key")
        if not is_digest(entry.digest):
            raise ValueError(f"shard {entry.key} has no digest")


def _check_tensors(manifest: Manifest) -> None:
    for path, layout in manifest.tensors.items():
        problem = check_cover(layout)
        if problem is not None:
            raise ValueError(f"tensor {path}: {problem}")


def _check_contents(manifest: Manifest) -> None:
    seen: set[tuple[int, str]] = set()
    needed = [0] * len(manifest.shards)
    for shard, name, nbytes in _contents(manifest):
        if shard >= len(needed):
            raise ValueError(f"{name!r} lies in shard {shard} of {len(needed)}")
        if (shard, name) in seen:
            raise ValueError(f"{name!r} stands twice in shard {shard}")
        seen.add((shard, name))
        needed[shard] += nbytes
    for index, entry in enumerate(manifest.shards):
        if needed[index] > entry.bytes:
            raise ValueError(f"shard {entry.key} is too small for its tensors")
    _check_paths([entry.path for entry in manifest.files])


def _check_paths(paths: Sequence[str]) -> None:
    files = set(paths)
    if len(files) != len(paths):
        raise ValueError("two files have one path")
    for path in paths:
        above = path.rpartition("/")[0]
        while above:
            if above in files:
                raise ValueError(f"{above!r:.120} is a file and a folder")
            above = above.rpartition("/")[0]


def _contents(manifest: Manifest) -> list[tuple[int, str, int]]:
    """(shard index, name in the shard, bytes) of everything the shards must hold."""
    tensors = [
        (chunk.shard, chunk.name, nbytes_of(layout.dtype, chunk.shape))
        for layout in manifest.tensors.values()
        for chunk in layout.chunks
    ]
    return tensors + [(entry.shard, entry.name, entry.bytes) for entry in manifest.files]
