"""Naming one version, and reading it back: references, manifests, every byte of it (FORMAT.md §7).

Whoever only looks at versions needs this and no tensor library.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_workers.store import keys
from ray_workers.store.errors import (
    DamageError,
    DigestMismatchError,
    InternalError,
    InvalidInputError,
    MalformedObjectError,
    MissingError,
    NewerFormatError,
    ObjectNotFoundError,
    VersionNotFoundError,
)
from ray_workers.store.manifest import MAX_MANIFEST_BYTES, Manifest, check_coverage
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState, rung_at_least
from ray_workers.store.shards import read_shard

__all__ = [
    "COMPUTED",
    "UNREADABLE",
    "CheckResult",
    "PickBest",
    "best_version",
    "find_version",
    "load_manifest",
    "manifest_at",
    "parse_reference",
    "verify_bytes",
]

_HEX64 = re.compile(r"[0-9a-f]{64}")
_TAG = r"[A-Za-z](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?"
_REFERENCE = re.compile(rf"(?P<run>[^@]+)@(?P<version>[0-9]{{1,18}}|{_TAG})")

COMPUTED = ("latest", "sound", "best")
"""Names that a tag cannot take: what they mean is computed."""

_MOST_KEYS = 100
"""Bad objects that a verdict names: a record has a limit."""

PickBest = Callable[[list[VersionState]], VersionState | None]


UNREADABLE = "unreadable"
"""A check that this program cannot make; it is no verdict and is never recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    check: str
    """`bytes` when the stored bytes are bad; else `verified` or `sound`."""
    passed: bool
    reason: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


def parse_reference(text: str) -> tuple[str, str]:
    """`RUN@3`, `RUN@TAG`, `RUN@latest`, `RUN@sound`, `RUN@best` as (run, version). Raises `InvalidInputError`."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise InvalidInputError(
            f"{text[:200]!r} names no version: write RUN@NUMBER, RUN@TAG, RUN@latest, RUN@sound or RUN@best."
        )
    return keys.check_run_name(match["run"]), match["version"]


def find_version(state: RunState, version: str, *, best: PickBest | None = None) -> VersionState:
    """The version that `version` means in `state`. Raises `VersionNotFoundError`.

    Args:
        state: the run.
        version: a number, `latest`, `sound`, `best`, or a tag.
        best: picks the best of the versions given, newest first; needed for `best` alone.
    """
    readable = [v for v in state.newest_first() if v.readable and not v.abandoned]
    found: VersionState | None
    if version.isdigit():
        found = state.versions.get(int(version))
    elif version == "sound":
        found = next((v for v in readable if rung_at_least(v.rung, "sound")), None)
    elif version == "latest":
        found = next(iter(readable), None)
    elif version != "best":
        found = state.versions.get(state.tags.get(version, 0))
    elif best is None:
        raise InternalError(f"Nobody said how to pick version {version!r}.")
    else:
        found = best([v for v in readable if v.quarantine is None])
    if found is None:
        raise _not_found(state, version, readable)
    return found


def _not_found(
    state: RunState, version: str, readable: Sequence[VersionState]
) -> VersionNotFoundError:
    numbers = ", ".join(str(v.number) for v in readable[:10]) or "none"
    named = f" Its tags: {', '.join(sorted(state.tags)[:10])}." if state.tags else ""
    return VersionNotFoundError(
        f"Run {state.run!r} has no version {version!r}. Its newest versions: {numbers}.{named}"
    )


def best_version(
    store: ObjectStore, run: str, *, metric: str = "loss", mode: str = "min"
) -> PickBest:
    """A picker for `find_version`. A version whose manifest or metric cannot be used is no candidate.

    Args:
        store: where the run lives.
        run: the run's name.
        metric: the metric to go by.
        mode: `min` when smaller is better, else `max`.
    """
    sign = 1 if mode == "min" else -1

    def value(version: VersionState) -> float:
        try:
            return load_manifest(store, run, version).metrics.get(metric, math.nan)
        except (DamageError, MissingError, NewerFormatError):
            return math.nan

    def pick(versions: list[VersionState]) -> VersionState | None:
        scored = [(sign * value(v), -v.number, v) for v in versions]
        # NaN compares with nothing, so it would win or lose by its place in the list.
        usable = [item for item in scored if not math.isnan(item[0])]
        return min(usable, key=lambda item: item[:2])[2] if usable else None

    return pick


def load_manifest(store: ObjectStore, run: str, version: VersionState) -> Manifest:
    """The manifest of a version, digest verified and complete in itself.

    Raises:
        DamageError: the bytes are not the manifest that was committed, on two reads.
        ObjectNotFoundError: it is not there.
        NewerFormatError: a newer Pawl wrote it.
    """
    if not _HEX64.fullmatch(version.manifest):
        raise MalformedObjectError(
            f"The log names version {version.number} by {version.manifest[:80]!r}, which is no digest of a manifest."
        )
    key = keys.manifest_key(run, version.fence, version.manifest)
    return manifest_at(store, key, version.manifest)


def manifest_at(store: ObjectStore, key: str, digest: str) -> Manifest:
    """The manifest under `key`, of which the log says the digest, in hex. Raises as `load_manifest`."""
    try:
        manifest = _read_manifest(store, key, digest)
    except DamageError:
        # The transfer may be at fault, and not the object.
        manifest = _read_manifest(store, key, digest)
    check_coverage(manifest, key=key)
    return manifest


def _read_manifest(store: ObjectStore, key: str, digest: str) -> Manifest:
    data = store.get(key, at_most=MAX_MANIFEST_BYTES)
    # Before parsing: damaged bytes must not be taken for those of a newer Pawl.
    if hashlib.sha256(data).hexdigest() != digest:
        raise DigestMismatchError(
            f"{key} is damaged: its bytes do not have the digest that was committed.", key=key
        )
    return Manifest.from_bytes(data, key=key)


def verify_bytes(
    store: ObjectStore, run: str, version: VersionState
) -> tuple[CheckResult, Manifest | None]:
    """Read every object of the version and compare every digest; the manifest only if all of them hold."""
    started = time.monotonic()
    total, bad = 0, dict[str, str]()
    try:
        manifest = load_manifest(store, run, version)
        for entry in manifest.shards:
            try:
                total += len(read_shard(store, entry))
            except (DamageError, ObjectNotFoundError) as error:
                bad[entry.key] = error.message  # and on: others may name these objects too
    except (DamageError, ObjectNotFoundError) as error:
        return CheckResult(check="bytes", passed=False, reason=error.message), None
    except NewerFormatError as error:
        # No damage: an older program must not condemn what it cannot read.
        return CheckResult(check=UNREADABLE, passed=False, reason=error.message), None
    if bad:
        return CheckResult(
            check="bytes",
            passed=False,
            reason=next(iter(bad.values())),
            evidence={"keys": list(bad)[:_MOST_KEYS]},
        ), None
    evidence = {"bytes": total, "seconds": round(time.monotonic() - started, 3)}
    return CheckResult(check="verified", passed=True, evidence=evidence), manifest
