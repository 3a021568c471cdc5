"""What a log record can say: one frozen class a kind, and a strict codec for their fields (FORMAT.md §4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ray_workers.store.strict_json import MAX_COUNT

__all__ = [
    "BODY_KINDS",
    "AttemptAdopted",
    "AttemptEnded",
    "AttemptStarted",
    "Body",
    "Commit",
    "Condemn",
    "Filler",
    "ForkPin",
    "ForkReleased",
    "OriginDropped",
    "PassedOver",
    "Repaired",
    "ResumeChosen",
    "Retire",
    "RolledBack",
    "RunCreated",
    "RunDeleted",
    "RunOrigin",
    "Swept",
    "Tagged",
    "Verdict",
    "VersionName",
    "decode_body",
    "encode_body",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionName:
    """A version is named by both, so that a verdict never falls on other bytes under the same number."""

    number: int
    manifest: str
    """SHA-256 of the manifest, hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    version: VersionName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrigin:
    """The version of another run that this run, or this attempt, started from."""

    run: str
    run_id: str
    version: VersionName


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Base of the record bodies; `kind` is the name in the envelope."""

    kind: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreated(Body):
    kind: ClassVar[str] = "RunCreated"
    run_id: str
    """Chosen by the creator: a fork pins its origin under this id before the run exists."""
    origin: RunOrigin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(Body):
    """The slot that this record takes is the attempt's fence."""

    kind: ClassVar[str] = "AttemptStarted"
    flow_run_id: str
    run_count: int
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptAdopted(Body):
    kind: ClassVar[str] = "AttemptAdopted"
    fence: int
    flow_run_id: str
    run_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded(Body):
    kind: ClassVar[str] = "AttemptEnded"
    fence: int
    outcome: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeChosen(Body):
    """Appended before the first byte of `version` is read. `version` None: started from nothing."""

    kind: ClassVar[str] = "ResumeChosen"
    fence: int
    version: VersionName | None
    origin: RunOrigin | None = None
    passed_over: tuple[PassedOver, ...] = ()
    required: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Body):
    """The commit point of a version."""

    kind: ClassVar[str] = "Commit"
    fence: int
    number: int
    manifest: str
    base: VersionName | None = None
    step: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Body):
    """`check`: `bytes`, `verified`, `sound`, `restorable`, or `release` (a person lifts a quarantine)."""

    kind: ClassVar[str] = "Verdict"
    versions: tuple[VersionName, ...]
    check: str
    passed: bool
    reason: str | None = None
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged(Body):
    kind: ClassVar[str] = "Tagged"
    name: str
    version: VersionName | None
    expects: VersionName | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack(Body):
    """Versions above `to` are abandoned; `to` None abandons all (start again from nothing)."""

    kind: ClassVar[str] = "RolledBack"
    to: VersionName | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPin(Body):
    kind: ClassVar[str] = "ForkPin"
    child: str
    child_run_id: str
    version: VersionName


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkReleased(Body):
    kind: ClassVar[str] = "ForkReleased"
    child: str
    child_run_id: str
    version: VersionName


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire(Body):
    kind: ClassVar[str] = "Retire"
    versions: tuple[VersionName, ...]
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Condemn(Body):
    """Irrevocable; the only licence to delete."""

    kind: ClassVar[str] = "Condemn"
    versions: tuple[VersionName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept(Body):
    kind: ClassVar[str] = "Swept"
    versions: tuple[VersionName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginDropped(Body):
    kind: ClassVar[str] = "OriginDropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDeleted(Body):
    kind: ClassVar[str] = "RunDeleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler(Body):
    """Occupies a hole; folded as a damaged slot."""

    kind: ClassVar[str] = "Filler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired(Body):
    """A person looked at damaged slot `slot` and restates what it held, in words, in `lost`."""

    kind: ClassVar[str] = "Repaired"
    slot: int
    lost: Mapping[str, Any] = dataclasses.field(default_factory=dict)


BODY_KINDS: dict[str, type[Body]] = {cls.kind: cls for cls in Body.__subclasses__()}


# --- bodies: a closed set of field types, so that a generic codec stays strict ---------------------------------


def _int(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"expected an integer from 0 to 2^63-1, found {value!r:.40}")
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, found {value!r:.40}")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, found {value!r:.40}")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {value!r:.40}")
    return value


def _optional(decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else decode(value)


def _tuple_of(decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: tuple(decode(item) for item in value)


def _struct(cls: type) -> Callable[[Any], Any]:
    return lambda value: decode_body(cls, _mapping(value))


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "str": _str,
    "bool": _bool,
    "str | None": _optional(_str),
    "Mapping[str, Any]": _mapping,
    "VersionName": _struct(VersionName),
    "VersionName | None": _optional(_struct(VersionName)),
    "tuple[VersionName, ...]": _tuple_of(_struct(VersionName)),
    "tuple[PassedOver, ...]": _tuple_of(_struct(PassedOver)),
    "RunOrigin | None": _optional(_struct(RunOrigin)),
}


def decode_body(cls: type, raw: Mapping[str, Any]) -> Any:
    """Fields unknown to this program are ignored; a field without default must be there."""
    values = {
        field.name: _DECODERS[str(field.type)](raw[field.name])
        for field in dataclasses.fields(cls)
        if field.name in raw or _is_required(field)
    }
    return cls(**values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def encode_body(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode_body(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [encode_body(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): encode_body(item) for name, item in value.items()}
    return value
