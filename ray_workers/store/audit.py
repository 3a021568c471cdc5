"""Reading a run back, object by object, and saying what is bad. Writes nothing, not even a verdict (FORMAT.md §8)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from ray_workers.store import keys
from ray_workers.store.attempts import read_run
from ray_workers.store.bodies import Filler
from ray_workers.store.errors import DamageError, MissingError, NewerFormatError
from ray_workers.store.fold_cache import MAX_CACHE_BYTES, OtherFoldError, decode_cache
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import MAX_RECORD_BYTES, Record, canonical_json
from ray_workers.store.run_state import RunState, VersionState
from ray_workers.store.shards import ShardEntry, read_shard
from ray_workers.store.versions import load_manifest

__all__ = ["AuditReport", "BadObject", "DamagedSlot", "audit_run"]

_SMALL_BYTES = 64 * 1024 * 1024
"""Shards up to this size are read side by side, larger ones one after the other, so that memory stays bounded."""

_READERS = 4
_LOG_READERS = 16

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadObject:
    key: str
    version: int | None
    """The version that needs it; None for a fold cache."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedSlot:
    slot: int
    key: str
    reason: str
    repaired: bool
    """A person looked at it and restated what it held: known, and no longer counted as bad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    run: str
    versions: tuple[int, ...]
    """Numbers of the versions whose objects were read."""
    skipped: tuple[int, ...]
    """Numbers of versions that are given up, so that their objects may be absent."""
    records: int
    """Slots of the log, readable or not."""
    caches: int
    objects: int
    """Manifests and shards that were read."""
    bytes: int
    damaged_slots: tuple[DamagedSlot, ...]
    bad_caches: tuple[BadObject, ...]
    bad_objects: tuple[BadObject, ...]

    @property
    def good(self) -> bool:
        """Nothing is bad but, perhaps, slots that a person repaired."""
        unrepaired = any(not slot.repaired for slot in self.damaged_slots)
        return not (unrepaired or self.bad_caches or self.bad_objects)

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names."""
        return {"good": self.good, **asdict(self)}


def audit_run(
    store: ObjectStore,
    run: str,
    versions: Sequence[VersionState] | None = None,
    *,
    tell: Tell = lambda _: None,
) -> AuditReport:
    """Read every log record and fold cache of a run, and every object of its versions.

    Args:
        store: where the run lives.
        run: the run's name.
        versions: which versions to read; None: all whose bytes are still promised.
        tell: told what is being read.

    Raises:
        RunNotFoundError: there is no such run.
        StoreUnavailableError, StoreRefusedError: the store does not let us read. Damage is no error here.
    """
    known = read_run(store, run)
    tell(f"reading the log of {run}")
    raw = LogReader(store, run).fold(use_cache=False)
    # A cache may know of more slots than can be read: those are lost, and not the log's end.
    records = max(raw.slot, known.slot)
    slots = _damaged_slots(store, run, raw, records)
    caches = list(store.list(keys.folds_prefix(run)))
    bad_caches = [bad for info in caches if (bad := _check_cache(store, run, info.key)) is not None]
    # A record that is damaged now may be a Commit that a cache still remembers, so both folds name versions.
    merged = {**raw.versions, **known.versions}
    wanted = list(versions) if versions is not None else [merged[n] for n in sorted(merged)]
    readable = [version for version in wanted if version.readable]
    reading = _Reading(store, run, tell)
    bad_objects = _still_promised(store, run, [b for v in readable for b in reading.check(v)])
    return AuditReport(
        run=run,
        versions=tuple(version.number for version in readable),
        skipped=tuple(version.number for version in wanted if not version.readable),
        records=records,
        caches=len(caches),
        objects=len(reading.results),
        bytes=reading.bytes,
        damaged_slots=slots,
        bad_caches=tuple(bad_caches),
        bad_objects=bad_objects,
    )


class _Reading:
    """Reads objects once each, although several versions may need them."""

    def __init__(self, store: ObjectStore, run: str, tell: Tell) -> None:
        self._store = store
        self._run = run
        self._tell = tell
        self.results: dict[tuple[str, str], str | None] = {}
        """Key and digest to why the object is bad."""
        self.bytes = 0

    def check(self, version: VersionState) -> Iterator[BadObject]:
        """What is bad about one version, object by object."""
        self._tell(f"reading version {version.number} ({version.bytes / 1e6:.2f} MB)")
        key = keys.manifest_key(self._run, version.fence, version.manifest)
        try:
            shards = load_manifest(self._store, self._run, version).shards
        except (DamageError, MissingError, NewerFormatError) as error:
            self.results[key, version.manifest] = error.message
            yield BadObject(key=key, version=version.number, reason=error.message)
            return
        self.results[key, version.manifest] = None
        self._read([entry for entry in shards if (entry.key, entry.digest) not in self.results])
        for entry in shards:
            reason = self.results[entry.key, entry.digest]
            if reason is not None:
                yield BadObject(key=entry.key, version=version.number, reason=reason)

    def _read(self, entries: Iterable[ShardEntry]) -> None:
        small: list[ShardEntry] = []
        for entry in entries:
            if entry.bytes <= _SMALL_BYTES:
                small.append(entry)
            else:
                self._note(entry, self._problem(entry))
        if not small:
            return
        with ThreadPoolExecutor(_READERS) as pool:
            for entry, problem in zip(small, pool.map(self._problem, small), strict=True):
                self._note(entry, problem)

    def _problem(self, entry: ShardEntry) -> str | None:
        try:
            read_shard(self._store, entry)
        except (DamageError, MissingError, NewerFormatError) as error:
            return error.message
        return None

    def _note(self, entry: ShardEntry, problem: str | None) -> None:
        self.results[entry.key, entry.digest] = problem
        self.bytes += 0 if problem else entry.bytes


def _damaged_slots(
    store: ObjectStore, run: str, raw: RunState, records: int
) -> tuple[DamagedSlot, ...]:
    def damage(slot: int) -> DamagedSlot | None:
        key = keys.log_key(run, slot)
        reason = _slot_problem(store, key, slot)
        if reason is None and slot not in raw.damaged:
            return None
        return DamagedSlot(
            slot=slot,
            key=key,
            reason=reason or "it was unreadable a moment ago",
            repaired=slot in raw.damaged and slot not in raw.unrepaired,
        )

    with ThreadPoolExecutor(_LOG_READERS) as pool:
        found = pool.map(damage, range(1, records + 1))
        return tuple(slot for slot in found if slot is not None)


def _slot_problem(store: ObjectStore, key: str, slot: int) -> str | None:
    try:
        data = store.get(key, at_most=MAX_RECORD_BYTES)
        record = Record.from_bytes(data, key=key, slot=slot)
    except MissingError:
        return "the record is missing"
    except DamageError as error:
        return error.message
    if record.kind == Filler.kind:
        return "its record was lost; a filler holds the slot, so that it cannot appear later"
    if record.to_bytes() != data:
        # Another spelling of the same values passes the record's own digest, and harms no reader.
        return f"the bytes of {key} are not those that were written, although they mean the same"
    return None


def _check_cache(store: ObjectStore, run: str, key: str) -> BadObject | None:
    """What is wrong with a fold cache. One made for another fold is no damage: it is ignored."""
    try:
        data = store.get(key, at_most=MAX_CACHE_BYTES)
        _refuse_other_spelling(data)
        slot, head = keys.parse_fold_key(key) or (0, "")
        decode_cache(data, run=run, slot=slot, head=head)
    except (MissingError, OtherFoldError):
        return None  # it may be deleted at any time
    except (ValueError, RecursionError) as error:
        reason = f"The fold cache {key} is damaged: {error}. Readers ignore it."
        return BadObject(key=key, version=None, reason=reason)
    return None


def _refuse_other_spelling(data: bytes) -> None:
    """Another spelling of the same values passes the cache's own digest."""
    if canonical_json(json.loads(data)) != data:
        raise ValueError("its bytes are not those that were written")


def _still_promised(
    store: ObjectStore, run: str, bad: Sequence[BadObject]
) -> tuple[BadObject, ...]:
    """Without what a sweep deleted while we read: a version that was given up meanwhile is not damaged."""
    if not bad:
        return ()
    versions = read_run(store, run).versions
    gone = {number for number, version in versions.items() if not version.readable}
    return tuple(item for item in bad if item.version not in gone)
