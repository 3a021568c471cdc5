"""Versions that share stored bytes: what a verdict on one object says of the others (FORMAT.md §7, §9).

A version names shards of its base instead of sending them again. So one object may carry many versions, and when it is
bad, all of them are.
"""

from __future__ import annotations

from collections.abc import Collection

from ray_workers.store.bodies import VersionName
from ray_workers.store.errors import DamageError, MissingError, NewerFormatError
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.versions import CheckResult, load_manifest, verify_bytes

__all__ = ["SharedBytes", "relatives"]

_MOST_NAMED = 400
"""Versions in one verdict: a record has a limit, and a name takes about a hundred bytes."""


def relatives(state: RunState, version: VersionState) -> list[VersionState]:
    """Kept versions that may share an object with `version`: those tied to it by bases, whatever lies between."""
    tied = {version.number}
    grew = True
    while grew:
        more = {
            number
            for v in state.versions.values()
            if v.base is not None and (v.base in tied or v.number in tied)
            for number in (v.number, v.base)
        }
        grew = not more <= tied
        tied |= more
    found = (state.versions.get(number) for number in sorted(tied - {version.number}))
    return [v for v in found if v is not None and v.readable]


class SharedBytes:
    """Whom a failed check of one version's bytes concerns. A manifest never changes, so each is read once.

    Args:
        store: where the run lives.
        version: whose bytes are bad.
        result: the check; its evidence names the bad objects under `keys`, or else they are looked for.
    """

    def __init__(self, store: ObjectStore, version: VersionState, result: CheckResult) -> None:
        self._store = store
        self._version = version
        self._bad: Collection[str] | None = result.evidence.get("keys")
        self._named: dict[str, frozenset[str]] = {}

    def names(self, state: RunState) -> tuple[VersionName, ...]:
        """The version and every kept one whose manifest names a bad object, on this state."""
        tied = relatives(state, self._version)
        if not tied:
            return (self._version.name,)
        bad = frozenset(self._bad_keys(state.run))
        others = [v.name for v in tied if bad & self._named_by(state.run, v)]
        return (self._version.name, *others[: _MOST_NAMED - 1])

    def _bad_keys(self, run: str) -> Collection[str]:
        if self._bad is None:
            result, _ = verify_bytes(self._store, run, self._version)
            found: Collection[str] = result.evidence.get("keys", ())
            self._bad = found
        return self._bad

    def _named_by(self, run: str, version: VersionState) -> frozenset[str]:
        if version.manifest not in self._named:
            try:
                shards = load_manifest(self._store, run, version).shards
            except (DamageError, MissingError, NewerFormatError):
                shards = ()  # what is wrong with it, its own check will say
            self._named[version.manifest] = frozenset(shard.key for shard in shards)
        return self._named[version.manifest]
