"""What a sweep of one run may take away now, and why: found by reading, nothing is changed (FORMAT.md §15)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_workers.store import keys
from ray_workers.store.errors import DamageError, MissingError, NewerFormatError
from ray_workers.store.leftovers import Leftover, list_leftovers
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.versions import load_manifest

__all__ = ["Doomed", "SweepPlan", "SweepReader", "fence_is_closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """One object that may be deleted."""

    key: str
    bytes: int
    version: int | None
    """The version that was given up; None: an orphan of a closed fence."""
    leftover: Leftover | None = None
    """Set for what is no object: an unfinished multipart upload, or a file of a write that was cut off."""

    @property
    def what(self) -> str:
        """`version`, `orphan shard`, `orphan manifest`, `unfinished upload` or `staging file`."""
        if self.leftover is not None:
            return self.leftover.what
        if self.version is not None:
            return "version"
        return "orphan manifest" if "/manifests/" in self.key else "orphan shard"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    run: str
    condemn: tuple[int, ...] = ()
    """Versions that were retired for longer than the grace period and that nothing protects."""
    waiting: Mapping[int, float] = field(default_factory=dict)
    """Retired versions whose grace still runs, and for how many seconds."""
    protected: Mapping[int, str] = field(default_factory=dict)
    """Retired versions that are protected now, with the reason."""
    doomed: tuple[Doomed, ...] = ()
    blocked: str | None = None
    """Why nothing at all may be condemned or deleted."""

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.doomed)

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes by `Doomed.what`."""
        sums: dict[str, int] = {}
        for item in self.doomed:
            sums[item.what] = sums.get(item.what, 0) + item.bytes
        return sums

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names."""
        return {
            "run": self.run,
            "condemn": list(self.condemn),
            "waiting": {str(number): round(left, 3) for number, left in self.waiting.items()},
            "protected": {str(number): why for number, why in self.protected.items()},
            "objects": len(self.doomed),
            "bytes": self.bytes,
            "bytes_by_kind": self.bytes_by_kind(),
            "blocked": self.blocked,
        }


def fence_is_closed(state: RunState, fence: int) -> bool:
    """A fence above the end of the log may belong to a start that was lost with the log's tail: it is not closed."""
    return fence != state.open_fence and fence <= state.slot


class SweepReader:
    """Reads what the decisions rest on. A manifest never changes, so each is read once.

    Args:
        store: where the run lives.
        run: its name.
    """

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._run = run
        self._named: dict[str, frozenset[str]] = {}

    def blocked(self, state: RunState, *, condemned: frozenset[int] = frozenset()) -> str | None:
        """Why nothing may be condemned or deleted on this state; `condemned` are about to be given up."""
        if state.run_id is None:
            return "the run has no usable beginning"
        if state.unknown:
            return f"a newer Pawl wrote records of the kind {state.unknown[0]!r}: upgrade Pawl"
        if state.unrepaired:
            slots = ", ".join(str(slot) for slot in state.unrepaired[:5])
            return f"slot {slots} of the log is damaged: look at `pawl repair {self._run}`"
        for version in state.versions.values():
            if version.readable and version.number not in condemned:
                try:
                    self.named_by(version)
                except (DamageError, MissingError, NewerFormatError) as error:
                    return (
                        f"the manifest of version {version.number} cannot be read, so nobody knows what it needs: "
                        f"{error.message}"
                    )
        return None

    def named_by(self, version: VersionState) -> frozenset[str]:
        """Keys of the manifest of a version and of all that it names. Raises as `load_manifest`."""
        if version.manifest not in self._named:
            manifest = load_manifest(self._store, self._run, version)
            key = keys.manifest_key(self._run, version.fence, version.manifest)
            self._named[version.manifest] = frozenset({key, *(s.key for s in manifest.shards)})
        return self._named[version.manifest]

    def doomed(
        self, state: RunState, *, condemned: frozenset[int] = frozenset()
    ) -> tuple[Doomed, ...]:
        """Everything that may be deleted on this state; nothing must block it.

        A key may go if and only if no version that is kept names it, and a condemned one does or its fence is closed.
        """
        given_up = [v for v in state.versions.values() if not v.readable or v.number in condemned]
        gone = {v.number for v in given_up}
        kept = [v for v in state.versions.values() if v.number not in gone]
        needed = frozenset[str]().union(*(self.named_by(version) for version in kept))
        owners = {key: v.number for v in given_up for key in self._still_named(v)}
        found = [
            Doomed(key=info.key, bytes=info.size, version=owners.get(info.key))
            for prefix in (keys.shards_prefix(self._run), keys.manifests_prefix(self._run))
            for info in self._store.list(prefix)
            if info.key not in needed and (info.key in owners or self._is_orphan(state, info.key))
        ]
        return (*found, *self._leftovers(state))

    def waits_for_its_fence(self, state: RunState, version: VersionState) -> bool:
        """Whether shards of a condemned version may be left that only its closed fence will name."""
        return not self._still_named(version) and not fence_is_closed(state, version.fence)

    def _still_named(self, version: VersionState) -> frozenset[str]:
        if version.status == "swept":
            return frozenset()  # every key that it named answered absent
        key = keys.manifest_key(self._run, version.fence, version.manifest)
        try:
            return self.named_by(version)
        except MissingError:
            return frozenset()  # shards go first, so they are gone, or orphans of a closed fence
        except (DamageError, NewerFormatError):
            return frozenset({key})

    def _is_orphan(self, state: RunState, key: str) -> bool:
        data = keys.data_fence(key)
        return data is not None and data.run == self._run and fence_is_closed(state, data.fence)

    def _leftovers(self, state: RunState) -> Iterator[Doomed]:
        for found in list_leftovers(self._store, keys.run_prefix(self._run)):
            fence = keys.folder_fence(found.key)
            if fence is not None and fence_is_closed(state, fence):
                yield Doomed(key=found.key, bytes=found.bytes, version=None, leftover=found)
