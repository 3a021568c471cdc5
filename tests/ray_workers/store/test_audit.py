import hashlib
import json
from typing import Any

import pytest

from ray_workers.store import audit, keys
from ray_workers.store.audit import audit_run
from ray_workers.store.bodies import Condemn, Repaired, Retire
from ray_workers.store.errors import ObjectNotFoundError, RunNotFoundError, StoreUnavailableError
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.log_reader import LogReader
from ray_workers.store.records import Record, canonical_json
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def run(tmp_path):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    made.commit(10)
    made.commit(20)
    made.judge(1, 2, check="verified")
    return made


class ReadOnly(LocalFolderStore):
    """Fails the test when anything is written."""

    def __init__(self, store):
        super().__init__(store.url)

    def put(self, key, data):
        raise AssertionError(f"{key} is written with {len(data)} bytes")

    def put_if_absent(self, key, data):
        raise AssertionError(f"{key} is created with {len(data)} bytes")

    def delete(self, key):
        raise AssertionError(f"{key} is deleted")


def put_cache(run):
    state = LogReader(run.store, run.name).fold()
    key = keys.fold_key(run.name, state.slot, str(state.head))
    run.store.put(key, encode_cache(state))
    return key


def objects(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in (folder / "runs").rglob("*")
        if path.is_file()
    )


def test_a_whole_run_is_good_and_counted_and_nothing_is_written(run):
    put_cache(run)
    told: list[str] = []
    report = audit_run(ReadOnly(run.store), "digits", tell=told.append)
    shards = [run.store.get(key) for number in (1, 2) for key in run.shard_keys(number)]
    assert report.good
    assert (report.versions, report.skipped, report.records, report.caches) == ((1, 2), (), 6, 1)
    assert (report.objects, report.bytes) == (6, sum(map(len, shards)))
    assert len(told) == 3
    assert json.loads(json.dumps(report.to_json()))["good"] is True


@pytest.mark.parametrize("at", [0, 20, -1, -30])
def test_a_flipped_byte_in_any_object_is_reported_as_what_it_is(run, tmp_path, at):
    put_cache(run)
    for key in objects(tmp_path):
        flip_byte(tmp_path, key, at)
        report = audit_run(ReadOnly(run.store), "digits")
        flip_byte(tmp_path, key, at)
        assert not report.good
        if "/log/" in key:
            assert [slot.key for slot in report.damaged_slots] == [key]
        elif "/folds/" in key:
            assert [bad.key for bad in report.bad_caches] == [key]
            assert not report.damaged_slots
        else:
            assert [bad.key for bad in report.bad_objects] == [key]
            assert not report.damaged_slots
    assert audit_run(ReadOnly(run.store), "digits").good


def test_every_bad_shard_of_a_version_is_named(run, tmp_path):
    for key in run.shard_keys(1):
        flip_byte(tmp_path, key)
    report = audit_run(run.store, "digits")
    assert [(bad.key, bad.version) for bad in report.bad_objects] == [
        (key, 1) for key in run.shard_keys(1)
    ]


def test_a_missing_shard_manifest_and_record_are_reported(run):
    first, _ = run.shard_keys(1)
    run.store.delete(first)
    run.store.delete(run.manifest_key(2))
    run.store.delete(keys.log_key("digits", 3))
    report = audit_run(run.store, "digits")
    assert {bad.key for bad in report.bad_objects} == {first, run.manifest_key(2)}
    assert [(slot.slot, slot.reason) for slot in report.damaged_slots] == [
        (3, "the record is missing")
    ]


def test_a_lost_tail_is_known_from_a_cache(run):
    put_cache(run)
    run.store.delete(keys.log_key("digits", 6))
    report = audit_run(run.store, "digits")
    assert [slot.slot for slot in report.damaged_slots] == [6]


def test_a_version_whose_commit_is_damaged_is_still_read_if_a_cache_remembers_it(run, tmp_path):
    put_cache(run)
    flip_byte(tmp_path, keys.log_key("digits", run.version(2).slot))
    flip_byte(tmp_path, run.shard_keys(2)[0])
    report = audit_run(run.store, "digits")
    assert report.versions == (1, 2)
    assert [bad.version for bad in report.bad_objects] == [2]
    assert len(report.damaged_slots) == 1


def test_a_filled_hole_is_damage_until_a_person_repairs_it(run):
    run.store.delete(keys.log_key("digits", 5))
    again = MadeUpRun(store=run.store)
    again.start()
    (slot,) = audit_run(run.store, "digits").damaged_slots
    assert (slot.slot, slot.repaired) == (5, False)
    assert "filler" in slot.reason
    again.append(Repaired(slot=5))
    report = audit_run(run.store, "digits")
    assert [slot.repaired for slot in report.damaged_slots] == [True]
    assert report.good


def test_another_spelling_of_a_record_is_reported_though_readers_take_it(run, tmp_path):
    key = keys.log_key("digits", 3)
    path = tmp_path / key
    path.chmod(0o644)
    path.write_bytes(json.dumps(json.loads(run.store.get(key))).encode())
    assert isinstance(LogReader(run.store, "digits").read(3), Record)
    report = audit_run(run.store, "digits")
    assert [(slot.slot, slot.repaired) for slot in report.damaged_slots] == [(3, False)]
    assert not report.good


def changed(run, key, **fields):
    """The cache under `key` with other fields and a digest that fits."""
    content = json.loads(run.store.get(key))
    del content["digest"]
    content.update(fields)
    return canonical_json(
        {**content, "digest": hashlib.sha256(canonical_json(content)).hexdigest()}
    )


def test_a_cache_that_fits_no_place_or_no_state_is_bad(run, tmp_path):
    key = put_cache(run)
    wrong: list[dict[str, Any]] = [{"slot": 5}, {"head": "0" * 64}, {"state": {}}, {"state": None}]
    for fields in wrong:
        (tmp_path / key).write_bytes(changed(run, key, **fields))
        (bad,) = audit_run(run.store, "digits").bad_caches
        assert bad.key == key
        (tmp_path / key).unlink()
        put_cache(run)
    for data in (b"", b"[]", b"{}", b"null", b"\xff", run.store.get(key).replace(b":", b": ")):
        (tmp_path / key).write_bytes(data)
        assert len(audit_run(run.store, "digits").bad_caches) == 1


def test_a_cache_of_another_fold_is_no_damage(run, tmp_path):
    key = put_cache(run)
    (tmp_path / key).write_bytes(changed(run, key, fold_version=99, state={"other": 1}))
    assert audit_run(run.store, "digits").good


def test_a_cache_that_is_deleted_before_it_is_read_is_no_damage(run):
    cache = put_cache(run)

    class Forgetful(ReadOnly):
        def get(self, key, **rest):
            if key == cache:
                raise ObjectNotFoundError("gone since it was listed")
            return super().get(key, **rest)

    report = audit_run(Forgetful(run.store), "digits")
    assert (report.caches, report.good) == (1, True)


def test_a_foreign_file_among_the_caches_is_named(run):
    run.store.put("runs/digits/folds/x.json", b"{}")
    (bad,) = audit_run(run.store, "digits").bad_caches
    assert bad.key == "runs/digits/folds/x.json"


def test_only_the_chosen_version_is_read(run, tmp_path):
    flip_byte(tmp_path, run.shard_keys(1)[0])
    report = audit_run(run.store, "digits", [run.version(2)])
    assert (report.versions, report.objects, report.good) == ((2,), 3, True)


def give_up_first(run):
    for step in (30, 40):
        run.commit(step)
    run.judge(1, 2, 3, 4)
    run.append(Retire(versions=(run.version(1).name,)))
    run.append(Condemn(versions=(run.version(1).name,)))


def test_what_was_given_up_is_skipped(run):
    give_up_first(run)
    run.store.delete(run.manifest_key(1))
    report = audit_run(run.store, "digits")
    assert (report.versions, report.skipped, report.good) == ((2, 3, 4), (1,), True)


def test_what_is_given_up_and_deleted_while_we_read_is_no_damage(run):
    class SweptMeanwhile(ReadOnly):
        def get(self, key, **rest):
            if key == first and run.version(1).readable:
                give_up_first(run)
                run.store.delete(first)
            return super().get(key, **rest)

    first = run.shard_keys(1)[0]
    report = audit_run(SweptMeanwhile(run.store), "digits")
    assert report.good
    assert not run.version(1).readable


def test_large_shards_are_read_one_at_a_time(run, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "_SMALL_BYTES", 1)
    flip_byte(tmp_path, run.shard_keys(2)[1])
    report = audit_run(run.store, "digits")
    assert (report.objects, [bad.key for bad in report.bad_objects]) == (6, [run.shard_keys(2)[1]])


def test_no_run_and_no_answer_are_errors(run):
    with pytest.raises(RunNotFoundError):
        audit_run(run.store, "other")

    class Silent(ReadOnly):
        def get(self, key, **rest):
            if "/shards/" in key:
                raise StoreUnavailableError("no answer")
            return super().get(key, **rest)

    with pytest.raises(StoreUnavailableError):
        audit_run(Silent(run.store), "digits")
