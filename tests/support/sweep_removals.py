"""How guards outside the log's rules are taken away: keys, digests, order, second looks, what a sweeper asks first."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ray_workers import resume, validation
from ray_workers.store import commit as commit_module
from ray_workers.store import keys, records, rules, shards, sharing, versions
from ray_workers.store import sweep as sweep_module
from ray_workers.store.bodies import Condemn, ForkPin, ResumeChosen, Verdict, VersionName
from ray_workers.store.commit import Base, CommittedVersion, put_with_retries
from ray_workers.store.errors import DamageError, ObjectNotFoundError, PawlError
from ray_workers.store.log import RunLog
from ray_workers.store.log_slots import DAMAGED, LogSlots, Slot
from ray_workers.store.manifest import Manifest
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record
from ray_workers.store.rules import check_fence
from ray_workers.store.run_state import RunState, VersionState
from tests.support.simulation import collecting, programs
from tests.support.simulation.processes import Process

__all__ = [
    "any_rung_will_do",
    "chooses_without_a_record",
    "cleans_up_after_failure",
    "condemned_bases_allowed",
    "condemns_without_asking",
    "create_overwrites",
    "damage_at_first_sight",
    "deletes_what_is_retired",
    "does_not_fold_again",
    "manifest_digest_unchecked",
    "no_read_back",
    "one_fence_for_all_incarnations",
    "one_key_for_all_tries",
    "only_the_one_looked_at",
    "open_fences_are_swept",
    "passes_over_in_silence",
    "pins_last",
    "record_digest_unchecked",
    "references_unchecked",
    "shard_digest_unchecked",
    "shards_at_first_sight",
    "sweepers_believe_caches",
    "sweeps_above_damage",
    "sweeps_what_it_cannot_read",
]

MonkeyPatch = pytest.MonkeyPatch

# --- keys and digests ------------------------------------------------------------------------------------------


def one_key_for_all_tries(patch: MonkeyPatch) -> None:
    def key(run: str, fence: int) -> str:
        return f"runs/{run}/shards/{fence:020d}/{'0' * 32}.safetensors"

    patch.setattr(keys, "new_shard_key", key)


def record_digest_unchecked(patch: MonkeyPatch) -> None:
    def parse(data: bytes, _: int) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(data)
        return fields

    patch.setattr(records, "_parse_envelope", parse)


def shard_digest_unchecked(patch: MonkeyPatch) -> None:
    patch.setattr(shards, "verify", lambda *_, **__: None)


def manifest_digest_unchecked(patch: MonkeyPatch) -> None:
    """Bytes that are no manifest are taken for another one of the same folder, as a reader that trusts might."""

    def read(store: ObjectStore, key: str, _: str) -> Manifest:
        folder = key.rpartition("/")[0]
        for candidate in (key, *(info.key for info in store.list(f"{folder}/"))):
            try:
                return Manifest.from_bytes(store.get(candidate), key=key)
            except DamageError:
                continue
        raise ObjectNotFoundError(f"There is no manifest in {folder}.")

    patch.setattr(versions, "_read_manifest", read)


def create_overwrites(patch: MonkeyPatch) -> None:
    """A store on which create-if-absent is a put."""
    patch.setattr(MemoryStore, "put_if_absent", MemoryStore.put)


def shards_at_first_sight(patch: MonkeyPatch) -> None:
    """A bad digest counts as soon as it is seen once."""
    for module in (shards, versions, validation, programs):
        patch.setattr(module, "read_shard", shards._read_once)


def damage_at_first_sight(patch: MonkeyPatch) -> None:
    """A record that is read badly once counts as damaged."""

    def read(self: LogSlots, number: int) -> Slot:
        key = keys.log_key(self._run, number)
        try:
            return Record.from_bytes(self._store.get(key), key=key, slot=number)
        except ObjectNotFoundError:
            return None
        except DamageError:
            return DAMAGED

    patch.setattr(LogSlots, "read", read)


# --- commit and resume -----------------------------------------------------------------------------------------


def no_read_back(patch: MonkeyPatch) -> None:
    def commit(
        store: ObjectStore, log: RunLog, manifest: Manifest, *, base: Base | None = None
    ) -> CommittedVersion:
        check_fence(log.refresh(), manifest.fence)
        data = manifest.to_bytes()
        put_with_retries(
            store, keys.manifest_key(log.state.run, manifest.fence, manifest.digest), data
        )
        name = None if base is None else base.name
        number = programs.append_commit(log, manifest, name, len(data))
        return CommittedVersion(
            number=number, manifest=manifest.digest, fence=manifest.fence,
            step=manifest.progress.step, bytes=len(data), bytes_new=len(data), at="",
        )  # fmt: skip

    patch.setattr(programs, "commit_version", commit)


def cleans_up_after_failure(patch: MonkeyPatch) -> None:
    """An attempt deletes its own upload when it does not know its commit to be done."""
    commit = programs.commit_version

    def commit_or_clean(
        store: ObjectStore, log: RunLog, manifest: Manifest, *, base: Base | None = None
    ) -> CommittedVersion:
        try:
            return commit(store, log, manifest, base=base)
        except PawlError:
            for entry in manifest.shards:
                store.delete(entry.key)
            raise

    patch.setattr(programs, "commit_version", commit_or_clean)


def condemned_bases_allowed(patch: MonkeyPatch) -> None:
    checked = rules._not_condemned

    def check(state: RunState, body: Any, name: VersionName) -> VersionState:
        known = rules._known(state, body, name)
        return known if body.kind == "Commit" else checked(state, body, name)

    patch.setattr(rules, "_not_condemned", check)


def references_unchecked(patch: MonkeyPatch) -> None:
    """A manifest may name whatever shard its writer remembers."""
    patch.setattr(commit_module, "check_references", lambda *_: None)


def only_the_one_looked_at(patch: MonkeyPatch) -> None:
    """A bad object is the matter of the one version that was read."""
    patch.setattr(sharing, "relatives", lambda *_: [])


def one_fence_for_all_incarnations(patch: MonkeyPatch) -> None:
    """A restarted writer goes on under the fence of the one before it."""
    take = programs.start_attempt

    def start(log: RunLog, *, flow_run_id: str, run_count: int, incarnation: int = 0) -> int:
        if incarnation and log.state.open_fence is not None:
            return log.state.open_fence
        return take(log, flow_run_id=flow_run_id, run_count=run_count, incarnation=incarnation)

    patch.setattr(programs, "start_attempt", start)


def chooses_without_a_record(patch: MonkeyPatch) -> None:
    """The resume point is read before it is recorded, so nothing keeps it."""
    patch.setattr(resume._Search, "record", lambda *_: None)


def any_rung_will_do(patch: MonkeyPatch) -> None:
    for module in (resume, rules):
        patch.setattr(module, "rung_at_least", lambda *_: True)


def passes_over_in_silence(patch: MonkeyPatch) -> None:
    patch.setattr(resume, "_listed", lambda _: ())


def does_not_fold_again(patch: MonkeyPatch) -> None:
    """After a 404 a verdict is written without asking whether the version was given up meanwhile."""

    def record(log: RunLog, version: VersionState, results: Any, *, checker: str) -> None:
        for result in results:
            body = Verdict(
                versions=(version.name,), check=result.check, passed=result.passed,
                reason=result.reason, checker=checker,
            )  # fmt: skip
            log.append(lambda _, body=body: body)  # type: ignore[misc]

    for module in (validation, resume, programs):
        patch.setattr(module, "record_verdicts", record)
    patch.setitem(rules._RULES, Verdict, lambda *_: None)


def pins_last(patch: MonkeyPatch) -> None:
    """The child is made first, and its origin is pinned afterwards."""
    append_now = RunLog.append
    waiting: dict[Process | None, tuple[RunLog, ForkPin]] = {}

    def append(self: RunLog, decide: Callable[[RunState], Any]) -> Any:
        body = decide(self.state)
        if isinstance(body, ForkPin):
            waiting[Process.current] = self, body
            return None
        record = append_now(self, decide)
        if isinstance(body, ResumeChosen) and Process.current in waiting:
            log, pin = waiting.pop(Process.current)
            append_now(log, lambda _: pin)
        return record

    patch.setattr(RunLog, "append", append)


# --- what a sweeper asks before it deletes ---------------------------------------------------------------------


def open_fences_are_swept(patch: MonkeyPatch) -> None:
    """An orphan is what no version names, whoever may be about to name it."""
    patch.setattr(collecting, "is_closed", lambda *_: True)


def deletes_what_is_retired(patch: MonkeyPatch) -> None:
    """Retired is taken for given up."""
    patch.setattr(collecting, "_condemn", lambda _: None)
    decide = collecting.deletable

    def deletable(store: ObjectStore, state: RunState) -> collecting.Plan | None:
        with patch.context() as inner:
            inner.setattr(VersionState, "readable", property(lambda v: v.status == "live"))
            return decide(store, state)

    patch.setattr(collecting, "deletable", deletable)


def condemns_without_asking(patch: MonkeyPatch) -> None:
    """Whoever condemns relies on what was protected when it was retired."""
    patch.setitem(rules._RULES, Condemn, lambda *_: None)

    def condemn(state: RunState) -> Condemn | None:
        doomed = tuple(v.name for v in state.versions.values() if v.status == "retired")
        return Condemn(versions=doomed) if doomed else None

    patch.setattr(collecting, "_condemn", condemn)


def sweeps_above_damage(patch: MonkeyPatch) -> None:
    """Nobody waits until a person has looked at a damaged slot."""
    patch.setattr(collecting, "_refuses", lambda _: False)
    patch.setattr(rules, "_damage_repaired", lambda *_: None)


def sweepers_believe_caches(patch: MonkeyPatch) -> None:
    """Whoever condemns takes over what somebody else made of the log."""

    def log(store: ObjectStore, run: str, *, by: Any, raw: bool, **rest: Any) -> RunLog:
        return RunLog(store, run, by=by, raw=not raw, **rest)

    for module in (sweep_module, collecting):
        patch.setattr(module, "RunLog", log)


def sweeps_what_it_cannot_read(patch: MonkeyPatch) -> None:
    """A manifest that cannot be read is taken to name nothing."""

    def kept(store: ObjectStore, state: RunState) -> set[str]:
        readable = (v for v in state.versions.values() if v.readable)
        return collecting._named_by(store, state, readable)

    patch.setattr(collecting, "_kept_keys", kept)
