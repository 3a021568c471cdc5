"""The folded state of a run as one sealed object, and back (FORMAT.md §5). A cache saves time and is never believed blindly.

Whoever can write to the store can seal a cache that says anything. So every value is taken only with the type that the
fold expects of it: a hostile cache can lie, as a hostile log can, but not break the reader.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from ray_workers.store.bodies import PassedOver, RunOrigin, VersionName, decode_body
from ray_workers.store.records import canonical_json
from ray_workers.store.run_state import (
    FOLD_VERSION,
    AttemptState,
    PinState,
    RunState,
    VersionState,
)

__all__ = ["MAX_CACHE_BYTES", "OtherFoldError", "decode_cache", "encode_cache"]

MAX_CACHE_BYTES = 256 * 1024 * 1024

_T = TypeVar("_T", VersionState, AttemptState, PinState, RunState)


class OtherFoldError(ValueError):
    """Made for another fold version: no damage, and of no use here."""


def encode_cache(state: RunState) -> bytes:
    """The bytes of a fold cache of `state`."""
    content = {
        "fold_version": FOLD_VERSION,
        "slot": state.slot,
        "head": state.head,
        "state": _plain(state),
    }
    return canonical_json({**content, "digest": _digest(content)})


def decode_cache(data: bytes, *, run: str, slot: int, head: str) -> RunState:
    """The state that the cache named `slot` and `head` holds. Raises `ValueError` when anything about it is off."""
    if len(data) > MAX_CACHE_BYTES:
        raise ValueError(f"more than {MAX_CACHE_BYTES} bytes")
    try:
        content = json.loads(data)
        digest = content.pop("digest")
        if _digest(content) != digest:
            raise ValueError("its digest does not match its content")
        if (content["slot"], content["head"]) != (slot, head):
            raise ValueError("it does not belong where its name says")
        if content["fold_version"] != FOLD_VERSION:
            raise OtherFoldError("it was made for another fold")
        state = _state(content["state"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no fold cache: {error!r:.200}") from None
    if (state.run, state.slot, state.head) != (run, slot, head):
        raise ValueError("its state is of another run or slot")
    return state


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


# --- back, every value with its type -----------------------------------------------------------------------------

_NONE = type(None)
_SIMPLE: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "int | None": (int, _NONE),
    "str | None": (str, _NONE),
    "float | None": (float, int, _NONE),
}
_CHECKED = {
    cls: [
        (field.name, _SIMPLE[str(field.type)])
        for field in dataclasses.fields(cls)
        if str(field.type) in _SIMPLE
    ]
    for cls in (RunState, VersionState, AttemptState, PinState)
}


def _made(cls: type[_T], raw: Mapping[str, Any], **decoded: Any) -> _T:
    """`cls` of `raw`, in which what is no simple value was decoded already."""
    for name, allowed in _CHECKED[cls]:
        if type(raw[name]) not in allowed:
            raise ValueError(f"{name} has an illegal value")
    return cls(**{**raw, **decoded})


def _state(raw: Mapping[str, Any]) -> RunState:
    return _made(
        RunState,
        raw,
        origin=_struct(RunOrigin, raw["origin"]),
        damaged=_all(int, raw["damaged"]),
        unrepaired=_all(int, raw["unrepaired"]),
        unknown=_all(str, raw["unknown"]),
        attempts={int(fence): _attempt(item) for fence, item in raw["attempts"].items()},
        versions={int(number): _version(item) for number, item in raw["versions"].items()},
        tags=dict(zip(raw["tags"], _all(int, list(raw["tags"].values())), strict=True)),
        pins={child: _made(PinState, item) for child, item in raw["pins"].items()},
    )


def _version(raw: Mapping[str, Any]) -> VersionState:
    return _made(VersionState, raw, passed=_all(str, raw["passed"]))


def _attempt(raw: Mapping[str, Any]) -> AttemptState:
    if not isinstance(raw["by"], dict) or not isinstance(raw["passed_over"], list):
        raise ValueError("an attempt has an illegal value")  # noqa: TRY004 - one error type here
    return _made(
        AttemptState,
        raw,
        resume=_struct(VersionName, raw["resume"]),
        resume_origin=_struct(RunOrigin, raw["resume_origin"]),
        passed_over=tuple(decode_body(PassedOver, item) for item in raw["passed_over"]),
    )


def _struct(cls: type, raw: Any) -> Any:
    if raw is not None and not isinstance(raw, dict):
        raise ValueError(f"{cls.__name__} has an illegal value")
    return None if raw is None else decode_body(cls, raw)


def _all(kind: type, raw: Any) -> tuple[Any, ...]:
    if not isinstance(raw, list) or any(type(item) is not kind for item in raw):
        raise ValueError(f"expected a list of {kind.__name__}")
    return tuple(raw)
