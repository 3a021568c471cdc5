"""The versions of a run, for people and programs: what the log says of each, joined with what its manifest says.

Reads only. A version whose manifest cannot be used still appears, with what the log knows and the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ray_workers.store.attempts import read_run
from ray_workers.store.errors import DamageError, NewerFormatError, ObjectNotFoundError
from ray_workers.store.manifest import Curve, Manifest, Progress, ShardEntry, VersionRef
from ray_workers.store.manifest_parts import INTERRUPTED
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.strict_json import encode_float
from ray_workers.store.versions import load_manifest

__all__ = ["VersionCatalog", "VersionEntry", "VersionFacts", "attempt_numbers", "version_rows"]

_READERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFacts:
    """What a manifest says, without the layout and the plain state, which can be large."""

    payload: str
    parent: VersionRef | None
    progress: Progress
    metrics: Mapping[str, float]
    curve: Mapping[str, Curve]
    config: Mapping[str, Any]
    world_size: int
    environment: Mapping[str, str]
    tensors: int
    """How many tensors the version holds."""
    shards: tuple[ShardEntry, ...]
    durations: Mapping[str, float]

    @property
    def interrupted(self) -> str | None:
        """What asked its attempt to end, when the version was saved for that; None: an ordinary save."""
        return self.environment.get(INTERRUPTED)

    @classmethod
    def of(cls, manifest: Manifest) -> VersionFacts:
        return cls(
            payload=manifest.payload,
            parent=manifest.parent,
            progress=manifest.progress,
            metrics=manifest.metrics,
            curve=manifest.curve,
            config=manifest.config,
            world_size=manifest.world_size,
            environment=manifest.environment,
            tensors=len(manifest.tensors),
            shards=manifest.shards,
            durations=manifest.durations,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEntry:
    """One version. `facts` is None exactly when `problem` says why its manifest cannot be used."""

    run: str
    version: VersionState
    attempt: int
    """Number of the attempt that committed it, from 1."""
    tags: tuple[str, ...]
    facts: VersionFacts | None
    problem: str | None
    bytes_new: int | None = None
    """Of the version's bytes, those that its base did not hold already; None when the manifest cannot be used."""

    @property
    def reason(self) -> str | None:
        """Why the version cannot be trusted; None if nothing speaks against it."""
        return self.version.quarantine or self.problem

    @property
    def status(self) -> str:
        """`live`, `retired`, `condemned`, `swept`, or `abandoned` by a rollback while its bytes are kept."""
        kept = self.version.readable
        return "abandoned" if kept and self.version.abandoned else self.version.status

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names; what only the manifest knows is null when it cannot be used."""
        version = self.version
        return {
            "number": version.number,
            "step": version.step,
            "rung": version.rung,
            "reason": self.reason,
            "status": self.status,
            "tags": list(self.tags),
            "bytes": version.bytes,
            "bytes_new": self.bytes_new,
            "committed_at": version.at,
            "attempt": self.attempt,
            "fence": version.fence,
            "manifest": version.manifest,
            **_facts_json(self.run, self.facts),
        }


def _facts_json(run: str, facts: VersionFacts | None) -> dict[str, Any]:
    if facts is None:
        unknown = (
            "epoch", "epochs_wanted", "finished", "metrics", "config", "parent", "parent_run", "payload",
            "world_size", "shards", "durations", "interrupted",
        )  # fmt: skip
        return dict.fromkeys(unknown)
    parent = facts.parent
    return {
        "epoch": facts.progress.epoch,
        "epochs_wanted": facts.progress.epochs_wanted,
        "finished": facts.progress.finished,
        "metrics": {name: encode_float(value) for name, value in facts.metrics.items()},
        "config": dict(facts.config),
        "parent": None if parent is None else parent.number,
        "parent_run": None if parent is None else parent.run or run,
        "payload": facts.payload,
        "world_size": facts.world_size,
        "shards": [
            {"key": s.key, "digest": s.digest, "bytes": s.bytes, "rank": s.rank}
            for s in facts.shards
        ],
        "durations": {name: encode_float(value) for name, value in facts.durations.items()},
        "interrupted": facts.interrupted,
    }


class VersionCatalog:
    """The entries of one run, as its log grows. A manifest is read once, because it never changes.

    Args:
        store: where the run lives.
        run: the run's name.
    """

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._run = run
        self._known: dict[str, VersionFacts] = {}

    def entries(
        self, state: RunState, wanted: Iterable[int] | None = None
    ) -> tuple[VersionEntry, ...]:
        """The versions `wanted` of those that `state` knows (all, by default), oldest first.

        Manifests are read in parallel.

        Raises:
            StoreUnavailableError, StoreRefusedError: the store does not let us read. Damage is no error here.
        """
        numbers = attempt_numbers(state)
        chosen = state.versions if wanted is None else wanted
        versions = [state.versions[number] for number in sorted(chosen)]
        bases = [state.versions.get(v.base) for v in versions if v.base is not None]
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(self._facts, versions))
            wanted_too = {v.number for v in versions}
            others = [v for v in bases if v is not None and v.number not in wanted_too]
            list(pool.map(self._facts, others))  # known from here on
        return tuple(
            VersionEntry(
                run=self._run,
                version=version,
                attempt=numbers[version.fence],
                tags=tuple(sorted(tag for tag, n in state.tags.items() if n == version.number)),
                facts=facts,
                problem=problem,
                bytes_new=None if facts is None else self._new_bytes(state, version, facts),
            )
            for version, (facts, problem) in zip(versions, found, strict=True)
        )

    def _new_bytes(self, state: RunState, version: VersionState, facts: VersionFacts) -> int:
        base = state.versions.get(version.base) if version.base is not None else None
        known = None if base is None else self._known.get(base.manifest)
        # What a base held that is deleted by now belongs to the oldest version that is left, this one for all we know.
        shared = set() if known is None else {shard.key for shard in known.shards}
        return version.bytes - sum(s.bytes for s in facts.shards if s.key in shared)

    def _facts(self, version: VersionState) -> tuple[VersionFacts | None, str | None]:
        known = self._known.get(version.manifest)
        if known is not None:
            return known, None
        given_up = f"its bytes are given up: it is {version.status}"
        if version.status == "swept":
            return (
                None,
                given_up,
            )  # the log says that its manifest is gone: nobody need ask the store again
        try:
            facts = VersionFacts.of(load_manifest(self._store, self._run, version))
        except (DamageError, ObjectNotFoundError, NewerFormatError) as error:
            return None, error.message if version.readable else given_up
        self._known[version.manifest] = facts
        return facts, None


def version_rows(store: ObjectStore, run: str) -> tuple[VersionEntry, ...]:
    """Every version of an existing run, oldest first. Raises as `read_run` and `VersionCatalog.entries`."""
    return VersionCatalog(store, run).entries(read_run(store, run))


def attempt_numbers(state: RunState) -> dict[int, int]:
    """Fence to the attempt's number, from 1. An attempt whose start record is damaged counts if it committed."""
    fences = {*state.attempts, *(version.fence for version in state.versions.values())}
    return {fence: number for number, fence in enumerate(sorted(fences), start=1)}
