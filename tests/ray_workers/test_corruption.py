"""Every object of a run damaged, one at a time: what is bad is named, what is good is resumed, and the run goes on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_workers import resume
from ray_workers.store import keys
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.audit import audit_run
from ray_workers.store.errors import PawlError
from ray_workers.store.fold import apply_record
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.records import Record
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import CheckResult, load_manifest
from ray_workers.validation import SoundnessPolicy, record_verdicts, validate
from tests.support.in_process import Finished, OneProcess
from tests.support.small_training import Killed, final_digests, patient_process, small_loop

pytestmark = pytest.mark.fault

Damage = Callable[[bytes], bytes | None]
NEWEST = 5


def _flip(at: float) -> Damage:
    """One bit turned, `at` of the way through the object."""

    def damage(data: bytes) -> bytes:
        turned = bytearray(data)
        turned[int(at * (len(data) - 1))] ^= 1
        return bytes(turned)

    return damage


DAMAGES: dict[str, Damage] = {
    "first byte": _flip(0),
    "middle byte": _flip(0.5),
    "last byte": _flip(1),
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda _: b"",
    "deleted": lambda _: None,
}

ALL_DAMAGES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in {"truncated", "emptied"} else [])
    for name in DAMAGES
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """Five versions of three attempts, four of them judged, the third attempt killed; and how the run should end."""

    folder: Path
    end: list[str]
    state: RunState
    data: dict[str, int]
    """Manifest and shard keys to the version they belong to."""

    def keys(self, part: str) -> list[str]:
        root = self.folder / "store"
        return sorted(
            p.relative_to(root).as_posix()
            for p in (root / "runs/run" / part).rglob("*")
            if p.is_file()
        )


@pytest.fixture(scope="module")
def all_copies() -> Iterator[Path]:
    """Hundreds of small runs: on a memory-backed folder, if there is one, each fsync is free."""
    shared = Path("/dev/shm")  # noqa: S108 - as staging does
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def memory(all_copies: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=all_copies))


@pytest.fixture(scope="module")
def original(all_copies: Path) -> Original:
    whole = patient_process(_new(all_copies / "whole"))
    whole.attempt(small_loop())
    folder = _new(all_copies / "original")
    run = patient_process(folder)
    for die_at in (6, 8, 11):
        with pytest.raises(Killed):
            run.attempt(small_loop(die_at=die_at))
    _judge(run, 1, 4)
    state = _state(run)
    assert [v.step for v in reversed(state.newest_first())] == [2, 4, 6, 8, 10]
    assert [v.rung for v in reversed(state.newest_first())] == [*["sound"] * 4, "committed"]
    return Original(folder=folder, end=final_digests(whole), state=state, data=_data(run, state))


@pytest.fixture(scope="module")
def cached(original: Original, all_copies: Path) -> Original:
    """The same with a fold cache in the middle of the log and one at its end."""
    folder = all_copies / "cached"
    shutil.copytree(original.folder, folder)
    store = patient_process(folder).target.open().store
    whole = RunLog(store, "run", by=this_process()).state
    middle = RunState(run="run")
    for record in LogReader(store, "run").read_many(range(1, whole.slot // 2)):
        assert isinstance(record, Record)
        apply_record(middle, record)
    for state in (middle, whole):
        key = keys.fold_key("run", state.slot, str(state.head))
        store.put_if_absent(key, encode_cache(state))
    return Original(folder=folder, end=original.end, state=whole, data=original.data)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _judge(run: OneProcess, *numbers: int) -> None:
    store = run.target.open().store
    log = RunLog(store, run.run, by=this_process())
    for number in numbers:
        version = log.state.versions[number]
        results = validate(store, version, state=log.state, policy=SoundnessPolicy())
        record_verdicts(log, version, results, checker="test")


def _state(run: OneProcess) -> RunState:
    return read_run(run.target.open().store, run.run)


def _data(run: OneProcess, state: RunState) -> dict[str, int]:
    found: dict[str, int] = {}
    store = run.target.open().store
    for version in state.versions.values():
        found[keys.manifest_key("run", version.fence, version.manifest)] = version.number
        found |= {s.key: version.number for s in load_manifest(store, "run", version).shards}
    return found


def _damaged_copies(
    original: Original, tmp_path: Path, damage: Damage, part: str
) -> Iterator[tuple[str, OneProcess]]:
    """For each object of one kind: a copy of the run in which that object, and nothing else, is damaged."""
    found = original.keys(part)
    assert found
    for number, key in enumerate(found):
        folder = tmp_path / str(number)
        shutil.copytree(original.folder, folder)
        path = folder / "store" / key
        data = damage(path.read_bytes())
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        yield key, patient_process(folder)
        shutil.rmtree(folder)


def _goes_on(run: OneProcess, original: Original, expected: int | None) -> Finished:
    """Resumed from the version expected, trained to the same end as if nothing had happened."""
    again = run.attempt(small_loop())
    assert (again.point.name.number if again.point else None) == expected
    assert final_digests(run) == original.end
    return again


def _bad_data_is_named_and_passed_over(original: Original, key: str, run: OneProcess) -> None:
    number = original.data[key]
    store = run.target.open().store
    audit = audit_run(store, "run")
    assert [(bad.key, bad.version) for bad in audit.bad_objects] == [(key, number)]
    assert (audit.damaged_slots, audit.bad_caches) == ((), ())
    again = _goes_on(run, original, NEWEST - 1 if number == NEWEST else NEWEST)
    judged = again.state.versions[number]
    if number == NEWEST:
        assert judged.quarantine is not None
        assert key in judged.quarantine
        assert judged.rung == "quarantined"
        passed_over = again.state.attempts[again.fence].passed_over
        assert [(p.version.number, p.reason) for p in passed_over] == [(number, judged.quarantine)]
    else:
        assert judged.quarantine is None  # nobody needed it, so nobody read it


@pytest.mark.parametrize("damage", ALL_DAMAGES)
@pytest.mark.parametrize("part", ["shards", "manifests"])
def test_bad_shards_and_manifests_are_quarantined_or_passed_over(
    original: Original, memory: Path, damage: str, part: str
) -> None:
    copies = _damaged_copies(original, memory, DAMAGES[damage], part)
    seen = set()
    for key, run in copies:
        _bad_data_is_named_and_passed_over(original, key, run)
        seen.add(original.data[key])
    assert seen == {1, 2, 3, 4, 5}


def test_all_bad_versions_are_quarantined_until_one_holds(original: Original, memory: Path) -> None:
    folder = memory / "copy"
    shutil.copytree(original.folder, folder)
    for key, number in original.data.items():
        if number in (2, 3, 4, 5) and "/shards/" in key:
            path = folder / "store" / key
            path.chmod(0o644)
            path.write_bytes(DAMAGES["middle byte"](path.read_bytes()) or b"")
    again = _goes_on(patient_process(folder), original, 1)
    assert [v.number for v in again.state.newest_first() if v.quarantine] == [5, 4, 3, 2]


@pytest.mark.parametrize("damage", ALL_DAMAGES)
def test_bad_log_records_are_reported_as_damaged_slots(
    original: Original, memory: Path, damage: str
) -> None:
    commits = {v.slot: v.number for v in original.state.versions.values()}
    tail = original.state.slot
    for key, run in _damaged_copies(original, memory, DAMAGES[damage], "log"):
        slot = keys.parse_log_key(key)
        assert slot is not None
        if damage == "deleted" and slot == 1:  # FORMAT.md §8: then the run counts as not there
            _goes_on(run, original, None)
            continue
        lost_tail = damage == "deleted" and slot == tail  # nothing above it tells that it was there
        reported = () if lost_tail else (slot,)
        assert _state(run).damaged == reported
        audit = audit_run(run.target.open().store, "run")
        assert tuple(s.slot for s in audit.damaged_slots) == reported
        assert audit.good == lost_tail
        again = _goes_on(run, original, NEWEST - 1 if commits.get(slot) == NEWEST else NEWEST)
        assert again.state.damaged == reported
        numbers = [v.number for v in again.state.versions.values()]
        assert (
            commits.get(slot) not in numbers
        )  # a number that may have been given is not given again


@pytest.mark.long
@pytest.mark.parametrize("damage", ["middle byte", "deleted"])
def test_a_cache_remembers_what_damaged_records_held_and_the_audit_reports_them(
    cached: Original, memory: Path, damage: str
) -> None:
    for key, run in _damaged_copies(cached, memory, DAMAGES[damage], "log"):
        slot = keys.parse_log_key(key)
        audit = audit_run(run.target.open().store, "run")
        assert [s.slot for s in audit.damaged_slots] == [slot]
        _goes_on(run, cached, NEWEST)


@pytest.mark.parametrize("damage", ALL_DAMAGES)
def test_bad_caches_are_reported_and_ignored(cached: Original, memory: Path, damage: str) -> None:
    for key, run in _damaged_copies(cached, memory, DAMAGES[damage], "folds"):
        store = run.target.open().store
        assert _state(run) == cached.state
        bad = [b.key for b in audit_run(store, "run").bad_caches]
        assert bad == ([] if damage == "deleted" else [key])
        _goes_on(run, cached, NEWEST)


@pytest.mark.parametrize("part", ["shards", "manifests"])
def test_these_tests_notice_a_resume_that_checks_nothing(
    original: Original, memory: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    judged = Original(
        folder=memory / "judged", end=original.end, state=original.state, data=original.data
    )
    shutil.copytree(original.folder, judged.folder)
    _judge(patient_process(judged.folder), NEWEST)
    yes = CheckResult(check="verified", passed=True)
    monkeypatch.setattr(resume, "verify_bytes", lambda *_: (yes, None))
    for key, run in _damaged_copies(judged, memory, DAMAGES["middle byte"], part):
        if original.data[key] != NEWEST:
            continue
        with pytest.raises((AssertionError, PawlError)):
            _bad_data_is_named_and_passed_over(judged, key, run)
        # The worker's own check stands behind: even then nothing bad is trained on.
        finished = run.attempt(small_loop())
        assert os.path.basename(key) in str(finished.state.versions[NEWEST].quarantine)  # noqa: PTH119 - a key
        assert final_digests(run) == original.end
        return
    pytest.fail("no object of the newest version was damaged")
