"""The protocols as programs of one process each, over the real code and without Ray, Prefect and files.

Every program may be ended at any storage call. What it knows to be true it has said in `told` by then.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import struct
import uuid
from dataclasses import replace

from ray_workers.opening_attempt import Applicant, open_attempt
from ray_workers.policies.retention import RetentionPolicy
from ray_workers.resume import ResumeChoice, ResumeSpec, choose
from ray_workers.retiring import plan_retention, retire
from ray_workers.store import keys
from ray_workers.store.attempts import create_run, end_attempt, roll_back, start_attempt
from ray_workers.store.bodies import Commit, RunDeleted, Tagged, Verdict, VersionName
from ray_workers.store.checksum import digest_of
from ray_workers.store.commit import Base, commit_version
from ray_workers.store.errors import (
    ConflictError,
    DamageError,
    MissingError,
    ObjectExistsError,
    RetryableError,
    StoreUnavailableError,
    VersionGoneError,
)
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.layout import Chunk, TensorLayout, merge_layouts
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.manifest import Manifest, Progress, ShardEntry
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import canonical_json
from ray_workers.store.run_state import FOLD_VERSION, RunState
from ray_workers.store.shards import arrange, build_header, read_shard
from ray_workers.store.versions import load_manifest, verify_bytes
from ray_workers.validation import SoundnessPolicy, record_verdicts, validate
from tests.support.simulation.told import Resumed, Told

__all__ = [
    "CHILD",
    "RUN",
    "append_commit",
    "attempt",
    "commit_version",
    "commits",
    "delete_run",
    "drills",
    "ends",
    "fork",
    "judges_all",
    "older_program_caches",
    "open_log",
    "refers_past_its_base",
    "restart",
    "retires",
    "rolls_back",
    "scrubs",
    "start_attempt",
    "starts",
    "tags",
    "validates",
]

RUN = "run"
CHILD = "child"
_TENSOR = "shared/model/weight"
_POLICY = SoundnessPolicy()


@functools.cache
def _shard(ones: int) -> bytes:
    header = build_header(arrange([(_TENSOR, "F32", (2,))]))
    return header + struct.pack("<2f", 1.0, float(ones))


@functools.cache
def _layout() -> dict[str, TensorLayout]:
    chunk = Chunk(offsets=(0,), shape=(2,), shard=0, name=_TENSOR)
    return merge_layouts([{_TENSOR: TensorLayout(dtype="F32", shape=(2,), chunks=(chunk,))}])


def open_log(store: ObjectStore, run: str = RUN) -> RunLog:
    return RunLog(store, run, by={})


# --- attempts --------------------------------------------------------------------------------------------------


def attempt(  # noqa: PLR0913 - a form
    store: ObjectStore, told: Told, *, flow: str, count: int = 1, versions: int = 2,
    required: str = "sound", share: bool = False, reverse: bool = False, run: str = RUN,
) -> None:  # fmt: skip
    """A whole attempt, as the flow runs it: run, fence, resume point, restore, versions, end.

    `reverse`: of two saves under way at once the later one commits first.
    """
    log, fence, step = _begin(store, told, flow, count, required, run)
    steps = range(step + 1, step + versions + 1)
    for step in (steps.stop, *steps) if reverse else steps:
        _save(store, log, told, fence, step, share=share)
    end_attempt(log, fence, "completed")


def starts(store: ObjectStore, told: Told, *, flow: str, count: int = 1) -> None:
    """Fence, resume point and restore; then the process stops without a word."""
    _begin(store, told, flow, count, "sound", RUN)


def commits(store: ObjectStore, told: Told, *, share: bool = False) -> None:
    """One more version under the open fence, if there is one."""
    log = open_log(store)
    own = log.state.open_attempt
    if own is not None:
        step = max([0, own.last_step, *(v.step for v in log.state.versions.values())]) + 1
        _save(store, log, told, own.fence, step, share=share)


def refers_past_its_base(store: ObjectStore, told: Told, *, flow: str) -> None:
    """An attempt that remembers a shard of an old version, and builds on the newest, which does not name it."""
    log, fence, step = _begin(store, told, flow, 1, "sound", RUN)
    kept = [v for v in log.state.newest_first() if v.candidate]
    try:
        base = _as_base(store, log, kept[0].name, reused=kept[-1].name)
        entry = _shards_of(store, log, kept[-1].name)[0]
    except (IndexError, StoreUnavailableError, DamageError, MissingError):
        return
    _commit(store, log, told, _manifest(log, fence, step + 1, entry), base)


def ends(store: ObjectStore, told: Told) -> None:
    log = open_log(store)
    if log.state.open_fence is not None:
        end_attempt(log, log.state.open_fence, "crashed")


def _begin(
    store: ObjectStore, told: Told, flow: str, count: int, required: str, run: str
) -> tuple[RunLog, int, int]:
    log = create_run(store, run, by={})
    fence = start_attempt(log, flow_run_id=flow, run_count=count)
    told.fences.append((log.state.run, fence))
    choice = choose(store, log, fence, required=required, policy=_POLICY)
    return log, fence, _restore(store, log.state, told, fence, choice)


def _restore(
    store: ObjectStore, state: RunState, told: Told, fence: int, choice: ResumeChoice
) -> int:
    """Read what was chosen, as the workers do; returns its step."""
    point = choice.point
    if point is None:
        told.resumed.append(Resumed(state.run, fence, None, whole=True))
        return 0
    whole = True
    try:
        data = _patiently(store, point.manifest_key)
        if hashlib.sha256(data).hexdigest() != point.name.manifest:
            data = _patiently(store, point.manifest_key)  # the transfer may be at fault
        for entry in Manifest.from_bytes(data).shards:
            read_shard(store, entry)
    except (DamageError, MissingError):
        whole = False
    except StoreUnavailableError:
        pass  # it will be tried again
    told.resumed.append(Resumed(point.run, fence, point.name, whole=whole, foreign=point.foreign))
    return point.step


def _patiently(store: ObjectStore, key: str) -> bytes:
    try:
        return store.get(key)
    except StoreUnavailableError:
        return store.get(key)


def _save(
    store: ObjectStore, log: RunLog, told: Told, fence: int, step: int, *, share: bool
) -> None:
    base = None
    try:
        chosen = _base(log.state) if share else None
        if chosen is None:
            entry = _upload(store, log, fence, step)
        else:
            base = _as_base(store, log, chosen, reused=chosen)
            entry = base.shards[0]
    except (StoreUnavailableError, DamageError, MissingError):
        return  # this save is dropped; training goes on
    _commit(store, log, told, _manifest(log, fence, step, entry), base)


def _commit(
    store: ObjectStore, log: RunLog, told: Told, manifest: Manifest, base: Base | None
) -> None:
    try:
        number = commit_version(store, log, manifest, base=base).number
    except (ConflictError, DamageError, MissingError):
        told.failed.append(manifest.digest)
    except RetryableError:
        told.unknown.append(manifest.digest)
    else:
        told.committed.append(manifest.digest)
        told.numbers.append((log.state.run, number))


def _base(state: RunState) -> VersionName | None:
    """The oldest version that may still be one: what the rule allows, and not only what is protected anyway."""
    kept = [v for v in state.newest_first() if v.candidate and not v.bad_bytes]
    return kept[-1].name if kept else None


def _upload(store: ObjectStore, log: RunLog, fence: int, step: int) -> ShardEntry:
    data = _shard(step % 2)
    key = keys.new_shard_key(log.state.run, fence)
    try:
        store.put(key, data)
    except StoreUnavailableError:
        key = keys.new_shard_key(log.state.run, fence)
        store.put(key, data)
    return ShardEntry(rank=0, key=key, bytes=len(data), digest=digest_of(data))


def _as_base(store: ObjectStore, log: RunLog, name: VersionName, *, reused: VersionName) -> Base:
    """The version as a base; what is named again are the shards of `reused`."""
    shards = _shards_of(store, log, name)
    keys_reused = {shard.key for shard in _shards_of(store, log, reused)}
    return Base(name=name, shards=shards, reused=frozenset(keys_reused))


def _shards_of(store: ObjectStore, log: RunLog, name: VersionName) -> tuple[ShardEntry, ...]:
    version = log.state.find(name)
    if version is None or not version.readable:
        raise VersionGoneError(f"Version {name.number} is gone.")
    return load_manifest(store, log.state.run, version).shards


def _manifest(log: RunLog, fence: int, step: int, entry: ShardEntry) -> Manifest:
    return Manifest(
        payload="state",
        run_id=str(log.state.run_id),
        fence=fence,
        write_id=uuid.uuid4().hex,
        created_at="2026-11-24T00:00:00Z",
        parent=None,
        progress=Progress(step=step, epoch=0, finished=False),
        metrics={"loss": 1.0 / step},
        world_size=1,
        tensors=_layout(),
        shards=(entry,),
    )


def append_commit(log: RunLog, manifest: Manifest, base: VersionName | None, size: int) -> int:
    """The record alone; returns the version's number."""

    def decide(state: RunState) -> Commit:
        return Commit(
            fence=manifest.fence, number=state.next_number, manifest=manifest.digest, base=base,
            step=manifest.progress.step, bytes=size,
        )  # fmt: skip

    record = log.append(decide)
    assert record is not None
    assert isinstance(record.body, Commit)
    return record.body.number


# --- beside training -------------------------------------------------------------------------------------------


def validates(store: ObjectStore, told: Told) -> None:
    """Judge every version that waits for it, oldest first."""
    log = open_log(store)
    for version in sorted(log.state.versions.values(), key=lambda v: v.number):
        if version.readable and not version.passed and version.quarantine is None:
            _judge(store, log, version.number)


def judges_all(store: ObjectStore, told: Told) -> None:
    """One verdict on every version, without reading any."""
    log = open_log(store)
    names = tuple(version.name for version in log.state.newest_first())
    log.append(lambda _: Verdict(versions=names, check="sound", passed=True, checker="validator"))


def scrubs(store: ObjectStore, told: Told) -> None:
    """Judge every version again, whatever its rung."""
    log = open_log(store)
    for version in log.state.newest_first():
        if version.readable and version.quarantine is None:
            _judge(store, log, version.number)


def _judge(store: ObjectStore, log: RunLog, number: int) -> None:
    version = log.state.versions.get(number)
    if version is None:
        return  # the run was deleted and made again meanwhile
    results = validate(store, version, state=log.state, policy=_POLICY)
    try:
        record_verdicts(log, version, results, checker="validator")
    except VersionGoneError:
        return


def drills(store: ObjectStore, told: Told, *, oldest: bool = False) -> None:
    """A real restore of a sound version, elsewhere; of the newest, unless the oldest is wanted."""
    log = open_log(store)
    sound = [v for v in log.state.newest_first() if v.readable and v.rung == "sound"]
    if not sound:
        return
    chosen = sound[-1 if oldest else 0]
    result, _ = verify_bytes(store, RUN, chosen)
    check = "restorable" if result.passed else "bytes"
    record_verdicts(log, chosen, [replace(result, check=check)], checker="drill")


def older_program_caches(store: ObjectStore, told: Told) -> None:
    """A program that does not know what ends an attempt folds the log and caches what it made of it."""
    state = LogReader(store, RUN).fold()
    if state.head is None:
        return
    state.open_fence = max(state.attempts, default=None)
    content = json.loads(encode_cache(state))
    content |= {"fold_version": FOLD_VERSION - 1}
    del content["digest"]
    digest = hashlib.sha256(canonical_json(content)).hexdigest()
    key = keys.fold_key(RUN, state.slot, state.head)
    with contextlib.suppress(ObjectExistsError):
        store.put_if_absent(key, canonical_json({**content, "digest": digest}))


def tags(store: ObjectStore, told: Told, *, name: str = "best", back: int = 1) -> None:
    """Move a tag to the version `back` below the newest that can be read."""
    log = open_log(store)
    readable = [v for v in log.state.newest_first() if v.readable and not v.abandoned]
    if not readable:
        return
    chosen = readable[min(back, len(readable) - 1)]
    present = log.state.versions.get(log.state.tags.get(name, 0))
    body = Tagged(name=name, version=chosen.name, expects=None if present is None else present.name)
    record = log.append(lambda _: body)
    if record is not None:
        told.appended.append(record.write_id)


def retires(store: ObjectStore, told: Told, *, keep: int = 1) -> None:
    log = open_log(store)
    if log.state.exists:
        plan = plan_retention(store, log.state, RetentionPolicy(keep_last=keep))
        if plan.retire:
            retire(log, plan, reason="retention")


def rolls_back(store: ObjectStore, told: Told) -> None:
    """Back to the oldest version that may be gone back to."""
    log = open_log(store)
    good = [v for v in log.state.newest_first() if v.readable and v.quarantine is None]
    if log.state.exists:
        roll_back(log, good[-1].name if good else None)


def fork(store: ObjectStore, told: Told, *, flow: str, oldest: bool = False) -> None:
    """A child of the newest version, or of the oldest: its first attempt begun and one version saved."""
    version = "latest"
    if oldest:
        kept = [v.number for v in LogReader(store, RUN).fold().versions.values() if v.readable]
        version = str(min(kept, default=1))
    applicant = Applicant(
        flow_run_id=flow, run_count=1, by={}, takeover=True, still_running=lambda _: None
    )
    log, fence = open_attempt(store, CHILD, ResumeSpec.parse(f"{RUN}@{version}"), applicant)
    told.fences.append((log.state.run, fence))
    choice = choose(store, log, fence, required="sound", policy=_POLICY)
    step = _restore(store, log.state, told, fence, choice)
    _save(store, log, told, fence, step + 1, share=False)


def restart(store: ObjectStore, told: Told, *, flow: str) -> None:
    """The writer of a try is started again: the next incarnation of the same flow run and try."""
    log = open_log(store)
    if not log.state.exists:
        return
    own = [a.incarnation for a in log.state.attempts.values() if a.flow_run_id == flow]
    incarnation = max(own, default=-1) + 1
    fence = start_attempt(log, flow_run_id=flow, run_count=1, incarnation=incarnation)
    told.fences.append((log.state.run, fence))
    step = max((v.step for v in log.state.versions.values()), default=0)
    _save(store, log, told, fence, step + 1, share=False)


def delete_run(store: ObjectStore, told: Told) -> None:
    log = open_log(store)
    if log.state.exists:
        log.append(lambda _: RunDeleted())
