"""Garbage collection on the real log: what goes, what never goes, and that a sweeper may die, stall and repeat."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from ray_workers.store import keys, sweep_plan
from ray_workers.store import sweep as sweep_module
from ray_workers.store.attempts import read_run
from ray_workers.store.bodies import Repaired, Retire, RunCreated
from ray_workers.store.catalog import VersionCatalog
from ray_workers.store.errors import RuleRefusedError, StoreUnavailableError
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.probe import PROBE_PREFIX
from ray_workers.store.sweep import SweepReport, delete_run, plan_sweep, sweep
from ray_workers.store.versions import verify_bytes
from tests.support.factories import MadeUpRun, flip_byte, folder_store
from tests.support.faulty_store import Call, Died, Fault, FaultyStore, Hooked
from tests.support.plain_log import damage

BY = {"host": "sweeper"}


def new_run(store: ObjectStore | None = None, *, versions: int = 5) -> MadeUpRun:
    """Versions 1 to 5, all sound; the attempt has ended."""
    run = MadeUpRun(store=store or MemoryStore(), name="run")
    run.start()
    for number in range(1, versions + 1):
        run.commit(10 * number)
    run.judge(*range(1, versions + 1))
    run.end()
    return run


def retire(run: MadeUpRun, *numbers: int) -> None:
    run.append(Retire(versions=tuple(run.version(number).name for number in numbers)))


def swept(run: MadeUpRun, store: ObjectStore | None = None, *, grace_s: float = 0.0) -> SweepReport:
    return sweep(store or run.store, run.name, by=BY, grace_s=grace_s)


def data_keys(run: MadeUpRun) -> set[str]:
    prefixes = (keys.shards_prefix(run.name), keys.manifests_prefix(run.name))
    return {info.key for prefix in prefixes for info in run.store.list(prefix)}


def keys_of(run: MadeUpRun, *numbers: int) -> set[str]:
    return {key for n in numbers for key in (run.manifest_key(n), *run.shard_keys(n))}


def statuses(run: MadeUpRun) -> dict[int, str]:
    return {v.number: v.status for v in read_run(run.store, run.name).versions.values()}


def whole(run: MadeUpRun) -> Sequence[int]:
    """Numbers of the kept versions; every one of them must be readable in full."""
    state = read_run(run.store, run.name)
    kept = [v for v in state.versions.values() if v.readable]
    assert all(verify_bytes(run.store, run.name, version)[0].passed for version in kept)
    return [v.number for v in kept]


# --- what goes -------------------------------------------------------------------------------------------------


def test_a_retired_version_is_condemned_deleted_and_swept():
    run = new_run()
    retire(run, 1, 2)
    gone = keys_of(run, 1, 2)
    size = sum(run.store.head(key).size for key in gone)
    report = swept(run)
    assert (report.condemned, report.swept, report.deleted) == ((1, 2), (1, 2), len(gone))
    assert report.bytes_deleted == {"version": size}
    assert data_keys(run).isdisjoint(gone)
    assert statuses(run) == {1: "swept", 2: "swept", 3: "live", 4: "live", 5: "live"}
    assert whole(run) == [3, 4, 5]


def test_a_version_stays_while_its_grace_runs():
    run = new_run()
    retire(run, 1)
    report = swept(run, grace_s=3600)
    assert (report.condemned, report.deleted) == ((), 0)
    assert 3590 < report.plan.waiting[1] <= 3600
    assert whole(run) == [1, 2, 3, 4, 5]


def test_orphans_of_a_closed_fence_go_and_those_of_the_open_one_stay():
    run = new_run()
    old = {
        keys.new_shard_key(run.name, run.fence),
        keys.manifest_key(run.name, run.fence, "0" * 64),
    }
    closed = run.fence
    fence = run.start(None)
    new = {keys.new_shard_key(run.name, fence), keys.new_shard_key(run.name, 10_000)}
    assert fence > closed
    for key in (*old, *new):
        run.store.put(key, b"12345")
    report = swept(run)
    assert report.bytes_deleted == {"orphan shard": 5, "orphan manifest": 5}
    assert data_keys(run) == keys_of(run, 1, 2, 3, 4, 5) | new


def test_a_plan_says_what_a_sweep_does_and_writes_nothing():
    run = new_run()
    retire(run, 1)
    run.store.put(keys.new_shard_key(run.name, run.fence), b"12345")
    before = {info.key for info in run.store.list("")}
    plan = plan_sweep(run.store, run.name, grace_s=0.0)
    assert {info.key for info in run.store.list("")} == before
    report = swept(run)
    assert report.bytes_deleted == plan.bytes_by_kind()
    assert (plan.condemn, report.plan.doomed) == ((1,), plan.doomed)


def test_a_deleted_run_is_swept_whole_and_its_name_is_free():
    run = new_run()
    run.store.put(keys.new_shard_key(run.name, run.fence), b"12345")
    delete_run(run.store, run.name, by=BY)
    assert swept(run).swept == (1, 2, 3, 4, 5)
    assert data_keys(run) == set()
    run.log.refresh()
    run.append(RunCreated(run_id="b" * 32))
    run.start(None)
    assert run.commit(10) == 6
    assert swept(run).deleted == 0
    assert whole(run) == [6]


def test_a_run_from_which_a_fork_starts_is_not_deleted():
    run = new_run()
    run.fork(3, "child")
    with pytest.raises(RuleRefusedError, match="child"):
        delete_run(run.store, run.name, by=BY)


def test_files_of_writes_that_were_cut_off_go_with_their_fence(tmp_path):
    run = new_run(folder_store(tmp_path))
    fence = run.start(None)
    dead, alive = (
        (tmp_path / keys.new_shard_key(run.name, number)).parent
        for number in (run.fence - 1, fence)
    )
    dead = (tmp_path / run.shard_keys(1)[0]).parent
    alive.mkdir(parents=True, exist_ok=True)
    left = [dead / ".pawl-tmp-1", dead / "shard.safetensors#3", alive / ".pawl-tmp-2"]
    for path in left:
        path.write_bytes(b"1234567")
    report = swept(run)
    assert report.bytes_deleted == {"staging file": 14}
    assert [path.exists() for path in left] == [False, False, True]
    assert whole(run) == [1, 2, 3, 4, 5]


# --- what never goes -------------------------------------------------------------------------------------------


def test_a_version_that_was_tagged_after_it_was_retired_stays():
    run = new_run()
    retire(run, 1, 2)
    run.tag("best", 1)
    report = swept(run)
    assert report.condemned == (2,)
    assert whole(run) == [1, 3, 4, 5]


def test_a_version_that_is_tagged_between_plan_and_condemn_stays():
    run = new_run()
    retire(run, 1)

    def tag(verb: str, key: str) -> None:
        if verb == "put" and key.startswith(PROBE_PREFIX):
            run.log.refresh()
            run.tag("best", 1)

    report = swept(run, Hooked(run.store, tag))
    assert (report.condemned, report.deleted) == ((), 0)
    assert whole(run) == [1, 2, 3, 4, 5]


def test_a_retired_version_that_became_the_newest_sound_one_stays():
    run = new_run()
    retire(run, 3)
    run.judge(4, 5, reason="drift")
    report = swept(run)
    assert report.condemned == ()
    assert 3 in report.plan.protected
    assert whole(run) == [1, 2, 3, 4, 5]


def test_nothing_goes_above_a_damaged_slot_until_it_is_repaired():
    run = new_run()
    retire(run, 1)
    damage(run.store, 4)
    report = swept(run)
    assert "slot 4" in str(report.plan.blocked)
    assert (report.deleted, report.condemned) == (0, ())
    run.log = type(run.log)(run.store, run.name, by={})
    run.append(Repaired(slot=4))
    assert swept(run).plan.blocked is None


def test_nothing_goes_while_the_manifest_of_a_kept_version_cannot_be_read():
    run = new_run()
    retire(run, 1)
    run.store.put(run.manifest_key(4), b"{}")
    run.store.put(keys.new_shard_key(run.name, run.fence), b"12345")
    before = data_keys(run)
    report = swept(run)
    assert "version 4" in str(report.plan.blocked)
    assert data_keys(run) == before


def test_a_version_without_its_manifest_can_itself_be_given_up():
    run = new_run()
    run.judge(1, check="bytes", reason="gone")
    shards = set(run.shard_keys(1))
    run.store.delete(run.manifest_key(1))
    retire(run, 1)
    report = swept(run)
    assert (report.condemned, report.swept) == ((1,), (1,))
    assert data_keys(run).isdisjoint(shards)
    assert whole(run) == [2, 3, 4, 5]


def test_shards_of_a_condemned_version_without_manifest_wait_for_its_fence():
    run = new_run()
    fence = run.start(None)
    for step in (110, 120, 130, 140):
        run.commit(step)
    run.judge(6, 7, 8, 9)
    shards = set(run.shard_keys(6))
    run.store.delete(run.manifest_key(6))
    retire(run, 6)
    assert run.version(6).fence == fence
    assert swept(run).swept == ()
    assert shards <= data_keys(run)
    run.end()
    assert swept(run).swept == (6,)
    assert shards.isdisjoint(data_keys(run))


def test_logs_and_foreign_objects_are_left_alone():
    run = new_run()
    retire(run, 1)
    odd = [
        "runs/run/notes.txt",
        "runs/run/shards/readme.txt",
        "runs/other/shards/" + "0" * 20 + "/x.safetensors",
    ]
    for key in odd:
        run.store.put(key, b"x")
    swept(run)
    kept = {info.key for info in run.store.list("")}
    assert kept.issuperset(odd)
    slots = read_run(run.store, run.name).slot
    assert kept.issuperset(keys.log_key(run.name, slot) for slot in range(1, slots + 1))


# --- sweepers that die, stall and repeat -----------------------------------------------------------------------


def test_a_second_sweep_finds_nothing_left():
    run = new_run()
    retire(run, 1, 2)
    swept(run)
    slot = read_run(run.store, run.name).slot
    assert (swept(run).deleted, read_run(run.store, run.name).slot) == (0, slot)


class Reads:
    """Passes everything on, and notes what is read."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.keys: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str, **limits: Any) -> bytes:
        self.keys.append(key)
        return self._store.get(key, **limits)


def test_nobody_asks_again_for_what_was_swept():
    run = new_run()
    retire(run, 1, 2)
    gone = {run.manifest_key(1), run.manifest_key(2)}
    swept(run)
    reads = Reads(run.store)
    VersionCatalog(reads, run.name).entries(read_run(run.store, run.name))
    swept(run, reads)
    plan_sweep(reads, run.name)
    assert gone.isdisjoint(reads.keys)
    assert {run.manifest_key(n) for n in (3, 4, 5)} <= set(reads.keys)


def test_a_condemn_that_rotted_as_it_was_stored_is_no_licence():
    run = new_run()
    retire(run, 1)
    slot = read_run(run.store, run.name).slot + 1
    before = data_keys(run)

    def rot(call: Call) -> Fault | None:
        return Fault.ROT if call.is_write and call.key == keys.log_key(run.name, slot) else None

    report = swept(run, FaultyStore(run.store, rot))
    assert (report.condemned, report.deleted) == ((1,), 0)
    assert data_keys(run) == before


def test_an_idle_sweep_reads_each_record_once():
    run = new_run()
    retire(run, 1, 2)
    swept(run)
    last = read_run(run.store, run.name).slot
    reads = Reads(run.store)
    assert swept(run, reads).deleted == 0
    records = Counter(key for key in reads.keys if "/log/" in key)
    assert {records[keys.log_key(run.name, slot)] for slot in range(1, last + 1)} == {1}


@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.LOSE_RESPONSE])
def test_a_sweeper_that_goes_wrong_at_any_call_is_repeated_by_the_next(fault):
    dry = FaultyStore(prepared().store)
    sweep(dry, "run", by=BY, grace_s=0.0)
    assert len(dry.writes) > 8
    for call in dry.calls if fault is Fault.DIE_BEFORE else dry.writes:
        run = prepared()
        broken = FaultyStore(run.store, {call.number: fault})
        with contextlib.suppress(Died, StoreUnavailableError):
            sweep(broken, "run", by=BY, grace_s=0.0)
        assert whole(run) == [3, 4, 5] or whole(run) == [1, 2, 3, 4, 5]
        swept(run)
        assert statuses(run) == {1: "swept", 2: "swept", 3: "live", 4: "live", 5: "live"}
        assert data_keys(run) == keys_of(run, 3, 4, 5)


def test_a_sweeper_that_stalls_at_any_call_does_no_harm_when_it_goes_on():
    dry = FaultyStore(prepared().store)
    sweep(dry, "run", by=BY, grace_s=0.0)
    for call in dry.calls:
        run = prepared()

        def meanwhile(now, number=call.number, run=run) -> None:
            if now.number == number:
                others_go_on(run)

        sweep(FaultyStore(run.store, meanwhile), "run", by=BY, grace_s=0.0)
        numbers = whole(run)
        assert {5, 6, 7} <= set(numbers)
        assert run.version(1).readable == ("best" in read_run(run.store, "run").tags)


def prepared() -> MadeUpRun:
    run = new_run()
    retire(run, 1, 2)
    run.store.put(keys.new_shard_key(run.name, run.fence), b"orphan")
    return run


def others_go_on(run: MadeUpRun) -> None:
    """A person tags what is still there, a new attempt commits twice, another sweeper sweeps."""
    run.log.refresh()
    with contextlib.suppress(RuleRefusedError):
        run.tag("best", 1)
    run.start(None)
    run.commit(110)
    run.commit(120)
    sweep(run.store, "run", by=BY, grace_s=0.0)


# --- the guards are what keeps it so ---------------------------------------------------------------------------


def test_without_the_open_fence_an_upload_under_way_would_be_lost(monkeypatch):
    run = new_run()
    fence = run.start(None)
    under_way = keys.new_shard_key(run.name, fence)
    run.store.put(under_way, b"12345")
    monkeypatch.setattr(sweep_plan, "fence_is_closed", lambda *_: True)
    swept(run)
    assert under_way not in data_keys(run)


def test_without_the_manifests_every_version_of_a_closed_fence_would_be_lost(monkeypatch):
    run = new_run()
    monkeypatch.setattr(sweep_plan.SweepReader, "named_by", lambda *_: frozenset())
    swept(run)
    assert data_keys(run) == set()


def test_without_the_look_at_protection_a_tagged_version_would_be_planned(monkeypatch):
    run = new_run()
    retire(run, 1)
    run.append(Retire(versions=()))
    assert plan_sweep(run.store, "run", grace_s=0.0).condemn == (1,)
    monkeypatch.setattr(sweep_module, "_retired_for", lambda *_: -1.0)
    assert plan_sweep(run.store, "run", grace_s=0.0).condemn == ()


def test_a_flipped_byte_in_a_kept_manifest_blocks(tmp_path):
    run = new_run(folder_store(tmp_path))
    retire(run, 1)
    flip_byte(tmp_path, run.manifest_key(5))
    assert "version 5" in str(swept(run).plan.blocked)
