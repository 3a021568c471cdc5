"""What the benchmark of scale plays: a coordinator with made-up ranks, runs with many versions, logs with many records."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from typing_extensions import Buffer

from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.messages import RankState, ShardReport, StagedPart, StagedShard
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.resume import choose
from ray_workers.store import keys
from ray_workers.store.attempts import create_run, start_attempt
from ray_workers.store.bodies import AttemptStarted, Body, Commit, RunCreated, Verdict, VersionName
from ray_workers.store.checksum import digest_of
from ray_workers.store.clock import utc_now
from ray_workers.store.fold import apply_record, prev_of_next
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.keys import new_shard_key
from ray_workers.store.layout import Chunk, TensorLayout
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Progress
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectInfo, ObjectStore
from ray_workers.store.records import Author, Place, Record
from ray_workers.store.run_state import RunState
from ray_workers.store.shards import ShardEntry
from ray_workers.version_assembly import AttemptIdentity
from tests.support.factories import MadeUpRun

__all__ = [
    "RUN",
    "Cache",
    "Counted",
    "Resumed",
    "Save",
    "copy_run",
    "drive",
    "long_log",
    "many_versions",
    "resume",
]

RUN = "run"
_BY = {"host": "trainer-1", "boot": "0" * 36, "pid": 4711, "started": 123456}
_DIGEST = digest_of(b"x")


class Counted:
    """A store that counts the calls by verb."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.calls: Counter[str] = Counter()

    @property
    def kind(self) -> str:
        return self._inner.kind

    @property
    def url(self) -> str:
        return self._inner.url

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        self.calls["get"] += 1
        return self._inner.get(key, at_most=at_most)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.calls["get_range"] += 1
        return self._inner.get_range(key, start, length)

    def read_into(self, key: str, start: int, *targets: memoryview) -> int:
        self.calls["read_into"] += 1
        return self._inner.read_into(key, start, *targets)

    def put(self, key: str, data: Buffer) -> None:
        self.calls["put"] += 1
        self._inner.put(key, data)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self.calls["put_if_absent"] += 1
        self._inner.put_if_absent(key, data)

    def head(self, key: str) -> ObjectInfo:
        self.calls["head"] += 1
        return self._inner.head(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        self.calls["list"] += 1
        return self._inner.list(prefix, after=after)

    def list_folders(self, prefix: str) -> Sequence[str]:
        self.calls["list_folders"] += 1
        return self._inner.list_folders(prefix)

    def delete(self, key: str) -> None:
        self.calls["delete"] += 1
        self._inner.delete(key)


# --- a coordinator with so many ranks ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """One version: what the coordinator did for it."""

    messages: int
    report_bytes: int
    """Of one rank's report, pickled."""
    gather_s: float
    """Processor seconds of all reports but the last."""
    commit_s: float
    """Processor seconds of the last one, which commits."""
    manifest_bytes: int
    log_bytes: int
    calls: Counter[str]


def drive(ranks: int, *, saves: int, tensors: int) -> list[Save]:
    """So many saves of a state of so many tensors, each sharded over all ranks."""
    inner = MemoryStore()
    store = Counted(inner)
    log = create_run(store, RUN, by=_BY)
    fence = start_attempt(log, flow_run_id="flow", run_count=1)
    attempt = AttemptIdentity(
        run=RUN, run_id=str(log.state.run_id), fence=fence, parent=None, config={"lr": 0.1}, by=_BY
    )
    manager = CheckpointManager(store, attempt, failure_budget=0)
    return [
        _save(manager, inner, store, fence, ranks, tensors, step) for step in range(1, saves + 1)
    ]


def _save(  # noqa: PLR0913, PLR0917 - one place calls it
    manager: CheckpointManager, inner: ObjectStore, store: Counted, fence: int, ranks: int, tensors: int, step: int
) -> Save:  # fmt: skip
    reports = [_report(rank, ranks, tensors, fence, step) for rank in range(ranks)]
    before, store.calls = _sizes(inner), Counter()
    begun = time.process_time()
    for report in reports[:-1]:
        manager.gather(report)
    gathered = time.process_time()
    outcome = manager.gather(reports[-1])
    done = time.process_time()
    if outcome is None or outcome.number is None:
        raise SystemExit(f"the save of step {step} became no version: {outcome}")
    new = {key: size for key, size in _sizes(inner).items() if key not in before}
    return Save(
        messages=ranks,
        report_bytes=len(pickle.dumps(reports[-1], protocol=5)),
        gather_s=gathered - begun,
        commit_s=done - gathered,
        manifest_bytes=sum(size for key, size in new.items() if "/manifests/" in key),
        log_bytes=sum(size for key, size in new.items() if "/log/" in key),
        calls=store.calls,
    )


def _sizes(store: ObjectStore) -> dict[str, int]:
    return {info.key: info.size for info in store.list(keys.run_prefix(RUN))}


def _report(rank: int, ranks: int, tensors: int, fence: int, step: int) -> ShardReport:
    layout = {
        name: TensorLayout(
            dtype="F32",
            shape=(ranks, 1024),
            chunks=(Chunk(offsets=(rank, 0), shape=(1, 1024), shard=0, name=name),),
        )
        for name in (f"shared/model/layers.{number}.weight" for number in range(tensors))
    }
    size = 4096 * tensors + 1024
    lead = rank == 0
    staged = StagedShard(
        rank=rank, world_size=ranks, progress=Progress(step=step, epoch=0, finished=False), payload="state",
        path="/dev/shm/pawl", parts=(StagedPart(begin=0, bytes=size, layout=layout),),  # noqa: S108 - only a name
        state=RankState(
            rank_plain={"rng": [rank] * 16}, plain={"epoch": 0} if lead else None, metrics={"loss": 0.5} if lead else {}
        ),
        staged_s=0.01,
    )  # fmt: skip
    entry = ShardEntry(rank=rank, key=new_shard_key(RUN, fence), bytes=size, digest=_DIGEST)
    return ShardReport(
        staged=staged, entries=(entry,), reused=frozenset(), fence=fence, upload_s=0.1
    )


# --- a run with so many versions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """One resume decision: the log opened, the fence taken, a version chosen, read and digested."""

    seconds: float
    processor_s: float
    calls: Counter[str]
    version: int | None


def many_versions(versions: int) -> MemoryStore:
    """A run whose versions are all *sound*, in memory, as training leaves it, with its fold caches."""
    store = MemoryStore()
    made = MadeUpRun(store=store, name=RUN, ranks=1)
    made.start()
    for step in range(1, versions + 1):
        made.judge(made.commit(step, curve={}))
    made.end()
    return store


def copy_run(source: ObjectStore, target: ObjectStore) -> None:
    for info in source.list(keys.run_prefix(RUN)):
        target.put(info.key, source.get(info.key))


def resume(store: ObjectStore, *, caches: bool) -> Resumed:
    """What a retry does before its workers start. Without `caches`, all fold caches are removed first."""
    if not caches:
        for info in list(store.list(keys.folds_prefix(RUN))):
            store.delete(info.key)
    counted = Counted(store)
    wall, processor = time.perf_counter(), time.process_time()
    log = RunLog(counted, RUN, by=_BY)
    fence = start_attempt(log, flow_run_id="again", run_count=len(log.state.attempts) + 1)
    choice = choose(counted, log, fence, required="sound", policy=SoundnessPolicy())
    return Resumed(
        seconds=time.perf_counter() - wall,
        processor_s=time.process_time() - processor,
        calls=counted.calls,
        version=choice.point.name.number if choice.point else None,
    )


# --- a log with so many records ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    key: str
    data: bytes


def long_log(records: int, *, cache_at: int) -> tuple[MemoryStore, RunState, Cache]:
    """A run's log of so many records, a commit and its verdict in turns; its state; and a cache up to some slot."""
    store, state = MemoryStore(), RunState(run=RUN)
    cache = None
    run_id = "a" * 32
    for slot in range(1, records + 1):
        place = Place(slot=slot, run_id=run_id, prev=prev_of_next(state))
        author = Author(write_id=f"{slot:032x}", by=_BY, at=utc_now())
        record = Record.seal(_body(slot), place=place, author=author)
        store.put(keys.log_key(RUN, slot), record.to_bytes())
        apply_record(state, record)
        if slot == cache_at:
            cache = Cache(key=keys.fold_key(RUN, slot, record.digest), data=encode_cache(state))
    if cache is None:
        raise ValueError("no such slot for the cache")
    return store, state, cache


def _body(slot: int) -> Body:
    if slot == 1:
        return RunCreated(run_id="a" * 32, origin=None)
    if slot == 2:  # noqa: PLR2004 - the first attempt
        return AttemptStarted(flow_run_id="flow", run_count=1, incarnation=0)
    number = (slot - 1) // 2
    name = VersionName(number=number, manifest=f"{number:064x}")
    if slot % 2:
        return Commit(
            fence=2, number=number, manifest=name.manifest, step=slot, bytes=1 << 30, base=None
        )
    evidence = {"parameter_norm": 12.5, "update_rate": 0.001, "bytes": 1 << 30, "seconds": 3.25}
    return Verdict(
        versions=(VersionName(number=number, manifest=f"{number:064x}"),), check="sound", passed=True, reason=None,
        checker="validator", evidence=evidence,
    )  # fmt: skip
