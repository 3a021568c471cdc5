"""The root, canonical JSON and single records (FORMAT.md §1, §3, §4), by somebody who has read nothing but that page.

This folder imports nothing of Pawl's. It works on a whole store in memory: key to bytes. It is written to be compared
with the page, not to be fast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "DAMAGED",
    "KINDS",
    "Objects",
    "canonical",
    "load_folder",
    "open_root",
    "read_slot",
    "seal_holds",
]

Objects = Mapping[str, bytes]

ENVELOPE: dict[str, Any] = {
    "v": int, "kind": str, "slot": int, "run_id": str, "prev": (str, type(None)), "write_id": str,
    "by": dict, "at": str, "body": dict, "digest": str,
}  # fmt: skip


def load_folder(root: Path) -> dict[str, bytes]:
    """§13: a key is a path below the root; temporary files are no objects."""
    files = (p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".pawl-tmp-"))
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def open_root(objects: Objects) -> str:
    """§1: the root's id."""
    root = json.loads(objects["pawl.json"])
    if root["format"] > 1:
        raise ValueError("a newer format")
    return str(root["root_id"])


def canonical(value: Any) -> bytes:
    """§1, rules 7 to 11; Python happens to spell floats that way."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def seal_holds(value: dict[str, Any]) -> bool:
    """§1, rule 13."""
    rest = {name: item for name, item in value.items() if name != "digest"}
    return bool(hashlib.sha256(canonical(rest)).hexdigest() == value["digest"])


_NAME = {"number": "count", "manifest": "text"}
_ORIGIN = {"run": "text", "run_id": "text", "version": _NAME}
_PASSED = {"version": _NAME, "reason": "text"}
_NEEDED: dict[str, dict[str, Any]] = {
    "RunCreated": {"run_id": "text"},
    "AttemptStarted": {"flow_run_id": "text", "run_count": "count", "incarnation": "count"},
    "AttemptAdopted": {"fence": "count", "flow_run_id": "text", "run_count": "count"},
    "AttemptEnded": {"fence": "count", "outcome": "text"},
    "ResumeChosen": {"fence": "count", "version": (_NAME,), "required": "text"},
    "Commit": {"fence": "count", "number": "count", "manifest": "text", "step": "count", "bytes": "count"},
    "Verdict": {"versions": [_NAME], "check": "text", "passed": "truth", "checker": "text"},
    "Tagged": {"name": "text", "version": (_NAME,), "expects": (_NAME,)},
    "RolledBack": {"to": (_NAME,)},
    "ForkPin": {"child": "text", "child_run_id": "text", "version": _NAME},
    "ForkReleased": {"child": "text", "child_run_id": "text", "version": _NAME},
    "Retire": {"versions": [_NAME]}, "Condemn": {"versions": [_NAME]}, "Swept": {"versions": [_NAME]},
    "OriginDropped": {}, "RunDeleted": {}, "Filler": {}, "Repaired": {"slot": "count"},
}  # fmt: skip
_MAY_LACK: dict[str, dict[str, tuple[Any, Any]]] = {
    "RunCreated": {"origin": ((_ORIGIN,), None)},
    "AttemptEnded": {"reason": (("text",), None)},
    "ResumeChosen": {"origin": ((_ORIGIN,), None), "passed_over": ([_PASSED], [])},
    "Commit": {"base": ((_NAME,), None)},
    "Verdict": {"reason": (("text",), None), "evidence": ("object", {})},
    "Retire": {"reason": (("text",), None)},
    "Repaired": {"lost": ("object", {})},
}
KINDS = frozenset(_NEEDED)
_SIMPLE = {"text": str, "truth": bool, "object": dict}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value has a type of §4; `(X,)` is X or null, `[X]` a list of X."""
    if isinstance(kind, tuple):
        return value is None or fits(value, kind[0])
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(
            name in value and fits(value[name], k) for name, k in kind.items()
        )
    if kind == "count":
        return type(value) is int and value >= 0
    return isinstance(value, _SIMPLE[kind])


def body_of(record: dict[str, Any]) -> dict[str, Any]:
    """The body with what it lacks; raises `ValueError` if it does not fit its row."""
    kind, body = record["kind"], dict(record["body"])
    optional = _MAY_LACK.get(kind, {})
    for name, (_, default) in optional.items():
        body.setdefault(name, default)
    wanted = _NEEDED[kind] | {name: type_ for name, (type_, _) in optional.items()}
    if not fits(body, wanted):
        raise ValueError(f"{kind} does not fit")
    return body


DAMAGED = "damaged"


def read_slot(objects: Objects, run: str, slot: int) -> Any:
    """A record, `DAMAGED`, or None if the slot is absent."""
    data = objects.get(f"runs/{run}/log/{slot:020d}.json")
    if data is None:
        return None
    try:
        return parse_record(data, slot)
    except (ValueError, TypeError, RecursionError):
        return DAMAGED


def parse_record(data: bytes, slot: int) -> dict[str, Any]:
    if len(data) > 65536:
        raise ValueError("too long")
    record = json.loads(data)
    if not isinstance(record, dict) or set(record) != set(ENVELOPE):
        raise ValueError("not ten fields")
    for name, kind in ENVELOPE.items():
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise ValueError(name)  # noqa: TRY004 - the value is at fault
    if record["v"] < 1 or record["slot"] != slot or not seal_holds(record):
        raise ValueError("not what was written here")
    if record["v"] == 1 and record["kind"] in _NEEDED:
        record["body"] = body_of(record)
    return record
