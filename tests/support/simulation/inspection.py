"""Holding a store against the oracle: the raw log, every byte, and what each process promised."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import xxhash

from ray_workers.store.errors import ObjectNotFoundError
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from tests.support.faulty_store import FaultyStore
from tests.support.simulation.oracle import BrokenError, Invariant, OracleRun, OracleVersion
from tests.support.simulation.processes import Process, run_alone
from tests.support.simulation.programs import CHILD, RUN, attempt
from tests.support.simulation.told import Resumed, Told

__all__ = ["check_everything", "follow"]

_FINE = ("done", "died", "object_exists", "rule_refused", "fence_lost", "run_busy", "version_gone")
_LATER = (
    "store_unavailable",
    "outcome_unknown",
    "version_not_found",
    "run_not_found",
    "object_not_found",
)
_DAMAGE = ("digest_mismatch", "malformed_object")


def check_everything(
    inner: ObjectStore, processes: Sequence[Process], rotten: set[str], *, before: int = 0
) -> None:
    """Raise `BrokenError` unless every invariant holds, now and after one more attempt.

    Args:
        inner: the store, with every delayed write landed.
        processes: who was at work.
        rotten: keys whose stored bytes were damaged on purpose.
        before: the last slot of the run's log when the trouble began.
    """
    told = [process.told for process in processes]
    starts = [start for one in told for start in one.fences]
    runs = {
        RUN: follow(inner, RUN, {fence for run, fence in starts if run == RUN}, before),
        CHILD: follow(inner, CHILD, {fence for run, fence in starts if run == CHILD}),
    }
    _check_endings(processes)
    _check_promises(told, list(runs.values()))
    _check_names(told)
    _check_reported(told, rotten)
    _check_calls([p.store for p in processes if p.store is not None])
    _check_deletes(processes)
    for run, oracle in runs.items():
        _check_bytes(inner, run, oracle, rotten)
        if rotten:
            _check_sharing(inner, run, oracle)
        _check_fold(inner, run, oracle)
    _check_origin(runs[RUN], runs[CHILD])
    for one in told:
        for resumed in one.resumed:
            _check_restore(inner, resumed, runs[resumed.run], rotten)
    _check_next_attempt(inner, RUN, runs[RUN])
    child = runs[CHILD]
    if child.exists and not (rotten and child.origin is not None):
        # A fork whose origin rotted has nothing to start from, and says so.
        _check_next_attempt(inner, CHILD, child)


def follow(
    inner: ObjectStore, run: str, starts: Collection[int] = (), before: int = 0
) -> OracleRun:
    """The oracle after the raw log of `run`. Raises `BrokenError`."""
    oracle = OracleRun(starts=starts, before=before)
    oracle.follow(_records(inner, run))
    return oracle


def _records(inner: ObjectStore, run: str) -> list[Mapping[str, Any] | None]:
    records: list[Mapping[str, Any] | None] = []
    head: str | None = None
    free = True
    while True:
        slot = len(records) + 1
        try:
            data = inner.get(f"runs/{run}/log/{slot:020d}.json")
        except ObjectNotFoundError:
            return records
        record = _decoded(data, slot)
        if record is not None and not free and record["prev"] != head:
            raise BrokenError(Invariant.SAME_FOLD, f"slot {slot} does not continue the one below")
        free = record is None or record["kind"] == "Filler"
        head = head if record is None else record["digest"]
        records.append(record)


@functools.lru_cache(4096)
def _decoded(data: bytes, slot: int) -> Mapping[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(data)
        rest = {name: value for name, value in record.items() if name != "digest"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        good = hashlib.sha256(text.encode()).hexdigest() == record["digest"]
    except (ValueError, KeyError, AttributeError):
        return None
    return record if good and record["slot"] == slot else None


def _check_endings(processes: Sequence[Process]) -> None:
    for process in processes:
        ended = process.told.ended
        if ended not in (*_FINE, *_LATER, *_DAMAGE):
            raise BrokenError(Invariant.OWN_ERRORS, f"{process.name} ended with {ended}")


def _check_promises(told: Sequence[Told], runs: Sequence[OracleRun]) -> None:
    damaged = sum(len(run.damaged) for run in runs)
    commits = set().union(*(run.commits for run in runs))
    lost = [digest for one in told for digest in one.committed if digest not in commits]
    if len(lost) > damaged:  # a damaged slot takes the one record that it held
        raise BrokenError(Invariant.COMMIT_STAYS, f"{lost} were reported and are not in the log")
    ghosts = [digest for one in told for digest in one.failed if digest in commits]
    if ghosts:
        raise BrokenError(Invariant.FAILED_STAYS_OUT, f"{ghosts} were reported as failed")
    ids = set().union(*(run.write_ids for run in runs))
    missing = [write_id for one in told for write_id in one.appended if write_id not in ids]
    if len(missing) > damaged:
        raise BrokenError(Invariant.COMMIT_STAYS, f"records {missing} were reported, not there")


def _check_reported(told: Sequence[Told], rotten: set[str]) -> None:
    """A manifest that was damaged while it was written is found before its version is reported."""
    reported = {digest for one in told for digest in one.committed}
    bad = [key for key in rotten if key.rpartition("/")[2].removesuffix(".json") in reported]
    if bad:
        raise BrokenError(Invariant.COMMIT_STAYS, f"{bad} was reported, and is not what was sent")


def _check_names(told: Sequence[Told]) -> None:
    taken = [fence for one in told for fence in one.fences]
    numbers = [number for one in told for number in one.numbers]
    if len(set(taken)) < len(taken):
        raise BrokenError(Invariant.FENCED, f"two processes hold one fence: {taken}")
    if len(set(numbers)) < len(numbers):
        raise BrokenError(
            Invariant.NAMES, f"two versions were reported under one number: {numbers}"
        )


def _check_calls(stores: Iterable[FaultyStore]) -> None:
    uploaded: set[str] = set()
    for store in stores:
        for call in store.writes:
            if "/log/" in call.key and call.verb != "put_if_absent":
                raise BrokenError(Invariant.NEVER_REWRITTEN, f"{call.verb} {call.key}")
            if call.verb == "put" and "/shards/" in call.key:
                if call.key in uploaded:
                    raise BrokenError(Invariant.NEVER_REWRITTEN, f"{call.key} was used twice")
                uploaded.add(call.key)


def _check_deletes(processes: Sequence[Process]) -> None:
    for process in processes:
        writes = [] if process.store is None else process.store.writes
        if process.told.fences and any(call.verb == "delete" for call in writes):
            raise BrokenError(Invariant.ATTEMPTS_DELETE_NOTHING, process.name)


def _check_origin(parent: OracleRun, child: OracleRun) -> None:
    if child.origin is None or parent.damaged:
        return
    name = child.origin["version"]
    version = parent.versions.get(name["number"])
    if version is None or version.digest != name["manifest"] or not version.kept:
        raise BrokenError(Invariant.WHOLE, f"the fork begins from {name}, which is given up")


# --- bytes -----------------------------------------------------------------------------------------------------


def _check_bytes(inner: ObjectStore, run: str, oracle: OracleRun, rotten: set[str]) -> None:
    for version in oracle.versions.values():
        whole = _is_whole(inner, run, version)
        hurt = bool(rotten) and not whole
        if version.kept and not whole and not hurt:
            raise BrokenError(Invariant.WHOLE, f"version {version.number} of {run} lacks bytes")
        if version.evidence_bad and not rotten:
            raise BrokenError(Invariant.NO_FALSE_ALARM, f"version {version.number} was called bad")
        if version.evidence_good and version.kept and not whole:
            raise BrokenError(
                Invariant.NO_FALSE_ALARM, f"version {version.number} is bad and passed"
            )


def _check_sharing(inner: ObjectStore, run: str, oracle: OracleRun) -> None:
    """Whoever found an object bad said so of every version that names it."""
    bad = {v.number: _bad_shards(inner, run, v) for v in oracle.versions.values() if v.kept}
    found = {
        key for number, keys in bad.items() if oracle.versions[number].bad_bytes for key in keys
    }
    for number, keys in bad.items():
        if keys & found and not oracle.versions[number].quarantined and not oracle.damaged:
            raise BrokenError(
                Invariant.NO_FALSE_ALARM,
                f"version {number} names {sorted(keys & found)}, found bad",
            )


def _bad_shards(inner: ObjectStore, run: str, version: OracleVersion) -> set[str]:
    try:
        data = inner.get(f"runs/{run}/manifests/{version.fence:020d}/{version.digest}.json")
    except ObjectNotFoundError:
        return set()
    if hashlib.sha256(data).hexdigest() != version.digest:
        return set()
    return {e["key"] for e in json.loads(data)["shards"] if not _shard_holds(inner, e)}


def _is_whole(inner: ObjectStore, run: str, version: OracleVersion) -> bool:
    key = f"runs/{run}/manifests/{version.fence:020d}/{version.digest}.json"
    try:
        data = inner.get(key)
        if hashlib.sha256(data).hexdigest() != version.digest:
            return False
        return all(_shard_holds(inner, entry) for entry in json.loads(data)["shards"])
    except ObjectNotFoundError:
        return False


def _shard_holds(inner: ObjectStore, entry: Mapping[str, Any]) -> bool:
    try:
        data = inner.get(entry["key"])
    except ObjectNotFoundError:
        return False
    digest = f"xxh3-128:{xxhash.xxh3_128_hexdigest(data)}"
    return bool(len(data) == entry["bytes"] and digest == entry["digest"])


# --- readers ---------------------------------------------------------------------------------------------------


def _check_fold(inner: ObjectStore, run: str, oracle: OracleRun) -> None:
    if oracle.slot == 0:
        return
    reader = LogReader(inner, run)
    try:
        raw, cached = reader.fold(use_cache=False), reader.fold()
    except Exception as error:
        raise BrokenError(Invariant.USABLE, f"{run} cannot be read: {error!r}") from error
    if list(raw.damaged) != oracle.damaged:
        raise BrokenError(Invariant.SAME_FOLD, f"damaged: {raw.damaged}, not {oracle.damaged}")
    if oracle.damaged:
        return  # a cache may know what the slot held; what follows from damage is in the damage traces
    for state in (raw, cached):
        seen = {
            n: (v.status, v.abandoned, v.quarantine is not None) for n, v in state.versions.items()
        }
        told = {n: (v.status, v.abandoned, v.quarantined) for n, v in oracle.versions.items()}
        fences = set() if state.open_fence is None else {state.open_fence}
        if (seen, dict(state.tags), fences) != (told, oracle.tags, oracle.holders):
            raise BrokenError(Invariant.SAME_FOLD, f"{seen} {state.tags} {fences} is not {told}")


def _check_restore(
    inner: ObjectStore, resumed: Resumed, oracle: OracleRun, rotten: set[str]
) -> None:
    if resumed.version is None:
        return
    own = None if resumed.foreign else oracle.attempts.get(resumed.fence)
    if own is not None and not oracle.damaged and resumed.version.number != own.get("resume"):
        raise BrokenError(Invariant.RUNG, f"{resumed}, but the record says {own.get('resume')}")
    version = oracle.versions.get(resumed.version.number)
    if version is None or version.digest != resumed.version.manifest:
        if not oracle.damaged and resumed.version.manifest not in oracle.commits:
            raise BrokenError(Invariant.RUNG, f"{resumed} is in no log")
        return
    if not resumed.whole and version.kept and not rotten:
        raise BrokenError(Invariant.WHOLE, f"{resumed} could not be read")
    if resumed.whole and version.kept and not _is_whole(inner, resumed.run, version):
        raise BrokenError(Invariant.RUNG, f"{resumed} was restored from bad bytes")


def _check_next_attempt(inner: ObjectStore, run: str, oracle: OracleRun) -> None:
    """A fresh process, without any fault, gets its fence, resumes the newest good version and commits."""
    wanted = next((v for v in oracle.candidates() if _is_whole(inner, run, v)), None)
    told = Told()
    process = Process(
        "next",
        lambda store, told: attempt(store, told, flow="next", count=1, versions=1, run=run),
        told,
    )
    run_alone(process, inner, None, {})
    if told.ended != "done" or len(told.committed) != 1:
        raise BrokenError(Invariant.USABLE, f"the next attempt ended as {told.ended}")
    [resumed] = told.resumed
    found = None if resumed.version is None or resumed.run != run else resumed.version.number
    # A fold cache may remember a version whose record was damaged after the cache's writer had seen it.
    better = bool(oracle.damaged) and found is not None and found not in oracle.versions
    if (found != (None if wanted is None else wanted.number) and not better) or not resumed.whole:
        detail = f"{resumed} was resumed, not version {wanted.number if wanted else None}"
        raise BrokenError(Invariant.USABLE, detail)
