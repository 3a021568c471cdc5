"""The envelope of a log record, and its canonical JSON both ways (FORMAT.md §3).

A record is `{v, kind, slot, run_id, prev, write_id, by, at, body, digest}`. `digest` is the SHA-256 of the canonical
JSON of all the rest; `prev` is the digest of the last effective record below, which chains the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_workers.store.bodies import BODY_KINDS, Body, decode_body, encode_body
from ray_workers.store.errors import MalformedObjectError

__all__ = ["MAX_RECORD_BYTES", "RECORD_FORMAT", "Author", "Place", "Record", "canonical_json"]

RECORD_FORMAT = 1
MAX_RECORD_BYTES = 64 * 1024


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, no NaN or infinity: one value has one spelling (FORMAT.md §1)."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record stands: its slot, its run, and the digest of the record that it continues."""

    slot: int
    run_id: str
    prev: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who wrote a record, when, and the id by which the writer knows its own record again."""

    write_id: str
    by: Mapping[str, Any]
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One slot of the log, as read or as written. `body` is None when the kind is unknown to this program."""

    v: int
    kind: str
    slot: int
    run_id: str
    prev: str | None
    write_id: str
    by: Mapping[str, Any]
    at: str
    """UTC, ISO 8601; information only."""
    raw_body: Mapping[str, Any]
    body: Body | None
    digest: str

    @classmethod
    def seal(cls, body: Body, *, place: Place, author: Author) -> Record:
        """Build the record that `body` becomes at `place`, digest included."""
        unsigned = cls(
            v=RECORD_FORMAT,
            kind=body.kind,
            slot=place.slot,
            run_id=place.run_id,
            prev=place.prev,
            write_id=author.write_id,
            by=dict(author.by),
            at=author.at,
            raw_body=encode_body(body),
            body=body,
            digest="",
        )
        return replace(unsigned, digest=_digest(unsigned._envelope()))

    def to_bytes(self) -> bytes:
        """Canonical JSON, at most `MAX_RECORD_BYTES`."""
        data = canonical_json({**self._envelope(), "digest": self.digest})
        if len(data) > MAX_RECORD_BYTES:
            raise MalformedObjectError(
                f"A {self.kind} record of {len(data)} bytes exceeds the limit of {MAX_RECORD_BYTES}: "
                "name fewer versions in one record."
            )
        return data

    def _envelope(self) -> dict[str, Any]:
        return {
            "v": self.v, "kind": self.kind, "slot": self.slot, "run_id": self.run_id, "prev": self.prev,
            "write_id": self.write_id, "by": dict(self.by), "at": self.at, "body": dict(self.raw_body),
        }  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes, *, key: str, slot: int) -> Record:
        """Parse and verify. Raises `MalformedObjectError` when anything, the digest included, does not hold."""
        try:
            fields = _parse_envelope(data, slot)
            body_type = BODY_KINDS.get(fields["kind"]) if fields["v"] == RECORD_FORMAT else None
            body = None if body_type is None else decode_body(body_type, fields["body"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MalformedObjectError(
                f"The log record {key} is damaged: {error}. Slots around it are still used; "
                "`pawl verify` lists it.",
                key=key,
            ) from None
        raw = fields.pop("body")
        return cls(raw_body=raw, body=body, **fields)


def _digest(envelope: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(envelope)).hexdigest()


_ENVELOPE: dict[str, Callable[[Any], bool]] = {
    "v": lambda x: type(x) is int and x >= 1,
    "kind": lambda x: isinstance(x, str),
    "slot": lambda x: type(x) is int and x >= 1,
    "run_id": lambda x: isinstance(x, str),
    "prev": lambda x: x is None or isinstance(x, str),
    "write_id": lambda x: isinstance(x, str),
    "by": lambda x: isinstance(x, dict),
    "at": lambda x: isinstance(x, str),
    "body": lambda x: isinstance(x, dict),
    "digest": lambda x: isinstance(x, str),
}


def _parse_envelope(data: bytes, slot: int) -> dict[str, Any]:
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"{len(data)} bytes, more than {MAX_RECORD_BYTES}")
    fields = json.loads(data)
    if not isinstance(fields, dict) or set(fields) != set(_ENVELOPE):
        raise ValueError("not a record envelope")
    for name, holds in _ENVELOPE.items():
        if not holds(fields[name]):
            raise ValueError(f"field {name!r} has an illegal value")
    rest = {name: value for name, value in fields.items() if name != "digest"}
    if _digest(rest) != fields["digest"]:
        raise ValueError("its digest does not match its content")
    if fields["slot"] != slot:
        raise ValueError(f"it says slot {fields['slot']}")
    return fields
