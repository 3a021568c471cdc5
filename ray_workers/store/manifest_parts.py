"""The small records inside a manifest, each with its JSON both ways."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ray_workers.store.errors import InvalidInputError
from ray_workers.store.strict_json import Fields, decode_float, encode_float

__all__ = [
    "INTERRUPTED",
    "MAX_CURVE_POINTS",
    "Curve",
    "FileEntry",
    "Progress",
    "VersionRef",
    "check_timestamp",
]

INTERRUPTED = "interrupted"
"""In the environment of a version that was saved because its attempt had to end: what asked for that."""

MAX_CURVE_POINTS = 400

_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRef:
    """Another version, named by number and digest, so that a reused number never means other bytes."""

    run: str | None
    """None: a version of the same run."""
    number: int
    digest: str
    """SHA-256 of its manifest, hex."""

    def __post_init__(self) -> None:
        if self.number < 1 or not _HEX64.fullmatch(self.digest):
            raise InvalidInputError("A version is named by a number from 1 and a SHA-256 in hex.")

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "number": self.number, "digest": self.digest}

    @classmethod
    def from_json(cls, fields: Fields) -> VersionRef:
        with fields:
            run = fields.take("run")
            if run is not None and not isinstance(run, str):
                raise ValueError("parent.run: expected a run name or null")
            return cls(run=run, number=fields.integer("number"), digest=fields.text("digest"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training stood."""

    step: int
    """Optimizer steps done since the run began."""
    epoch: int
    """Epochs completed."""
    finished: bool
    """True when every wanted epoch was done."""
    epochs_wanted: int | None = None

    def __post_init__(self) -> None:
        if self.step < 0 or self.epoch < 0 or (self.epochs_wanted or 0) < 0:
            raise InvalidInputError("Steps and epochs cannot be negative.")

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step, "epoch": self.epoch, "finished": self.finished,
            "epochs_wanted": self.epochs_wanted,
        }  # fmt: skip

    @classmethod
    def from_json(cls, fields: Fields) -> Progress:
        with fields:
            wanted = fields.take("epochs_wanted")
            if wanted is not None and (type(wanted) is not int or wanted < 0):
                raise ValueError("progress.epochs_wanted: expected a count or null")
            return cls(
                step=fields.integer("step"),
                epoch=fields.integer("epoch"),
                finished=fields.boolean("finished"),
                epochs_wanted=wanted,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric over steps, thinned to at most `MAX_CURVE_POINTS` by its writer."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values) or len(self.steps) > MAX_CURVE_POINTS:
            raise InvalidInputError(
                f"A curve has as many values as steps, and at most {MAX_CURVE_POINTS}; "
                f"this one has {len(self.values)} and {len(self.steps)}."
            )

    def to_json(self) -> dict[str, Any]:
        return {"steps": list(self.steps), "values": [encode_float(v) for v in self.values]}

    @classmethod
    def from_json(cls, fields: Fields) -> Curve:
        with fields:
            values = tuple(decode_float(item) for item in fields.items("values"))
            return cls(steps=fields.integers("steps"), values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of a handed-over checkpoint folder, stored as the bytes (U8) of tensor `name` in a shard."""

    path: str
    """Relative, `/`-joined; it cannot leave the folder it is written into."""
    shard: int
    name: str
    bytes: int

    def __post_init__(self) -> None:
        segments = self.path.split("/")
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in segments):
            raise InvalidInputError(
                f"{self.path[:120]!r} cannot be stored: a file's path is relative, without '.', '..', empty parts or "
                "backslashes."
            )

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "shard": self.shard, "name": self.name, "bytes": self.bytes}

    @classmethod
    def from_json(cls, fields: Fields) -> FileEntry:
        with fields:
            return cls(
                path=fields.text("path"),
                shard=fields.integer("shard"),
                name=fields.text("name"),
                bytes=fields.integer("bytes"),
            )


def check_timestamp(text: str) -> None:
    """Raise `ValueError` unless `text` is an ISO 8601 instant in UTC."""
    instant = datetime.fromisoformat(text)
    if instant.utcoffset() != timedelta(0):
        raise ValueError(f"created_at {text[:40]!r} is not in UTC")
