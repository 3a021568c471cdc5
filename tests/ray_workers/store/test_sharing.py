"""Versions that share shards: commits on a base, what a sweep leaves, and whom a bad shard concerns."""

from dataclasses import replace

import pytest

from ray_workers.scrubbing import Pace, scrub_run
from ray_workers.store import sharing
from ray_workers.store.attempts import read_run
from ray_workers.store.bodies import Condemn, Retire, Verdict
from ray_workers.store.catalog import version_rows
from ray_workers.store.commit import Base, commit_version
from ray_workers.store.errors import RuleRefusedError
from ray_workers.store.manifest import Manifest
from ray_workers.store.memory import MemoryStore
from ray_workers.store.sharing import relatives
from ray_workers.store.sweep import sweep
from ray_workers.store.versions import load_manifest, verify_bytes
from ray_workers.validation import CheckResult, record_verdicts
from tests.support.factories import MadeUpRun, flip_byte, folder_store


def new_run(store=None):
    run = MadeUpRun(store=store or MemoryStore())
    run.start()
    return run


def manifest_of(run, number):
    return load_manifest(run.store, run.name, run.version(number))


def bad(run):
    return [v.number for v in read_run(run.store, run.name).newest_first() if v.bad_bytes]


def test_a_version_names_its_bases_shard_and_its_own():
    run = new_run()
    for step, base in ((1, None), (2, 1), (3, 2)):
        run.commit(step, base=base)
    assert [run.version(n).base for n in (1, 2, 3)] == [None, 1, 2]
    assert run.shard_keys(3)[0] == run.shard_keys(1)[0]
    assert run.shard_keys(3)[1] != run.shard_keys(2)[1]
    assert verify_bytes(run.store, run.name, run.version(3))[0].passed
    first, second, _ = version_rows(run.store, run.name)
    assert first.bytes_new == first.version.bytes
    assert second.facts is not None
    assert second.bytes_new == second.version.bytes - second.facts.shards[0].bytes


def test_what_a_kept_version_shares_outlives_the_one_it_was_stored_for():
    run = new_run()
    for step, base in ((1, None), (2, 1), (3, 2)):
        run.commit(step, base=base)
    shared, own = run.shard_keys(1)
    for number in (2, 3):
        run.judge(number, check="sound")
    run.append(Retire(versions=(run.version(1).name,)))
    sweep(run.store, run.name, by={}, grace_s=0.0)
    assert run.version(1).status == "swept"
    left = {info.key for info in run.store.list("")}
    assert shared in left
    assert own not in left
    # The base is deleted: for all we know what it held came with the oldest version that is left.
    assert version_rows(run.store, run.name)[1].bytes_new == run.version(2).bytes


def recommitted(run, number, base):
    """The version's manifest once more, as the next one, with the shards as they are."""
    raw = manifest_of(run, number)
    manifest = Manifest.from_bytes(
        raw.to_bytes()
        .replace(f'"step":{raw.progress.step}'.encode(), b'"step":99')
        .replace(f'"fence":{raw.fence}'.encode(), f'"fence":{run.fence}'.encode())
    )
    return commit_version(run.store, run.log, manifest, base=base)


def as_base(run, number, reused):
    shards = manifest_of(run, number).shards
    return Base(name=run.version(number).name, shards=shards, reused=frozenset(reused))


def test_a_shard_that_the_base_does_not_name_is_refused_though_it_is_there():
    run = new_run()
    run.commit(1)
    run.commit(2)
    with pytest.raises(RuleRefusedError, match="not what the base names"):
        recommitted(run, 1, as_base(run, 2, run.shard_keys(1)))
    assert sorted(read_run(run.store, run.name).versions) == [1, 2]


def test_an_earlier_attempts_shard_is_refused_without_a_base():
    run = new_run()
    run.commit(1)
    run.start(resume=1)
    with pytest.raises(RuleRefusedError, match="stored for an earlier version"):
        recommitted(run, 1, None)
    assert recommitted(run, 1, as_base(run, 1, run.shard_keys(1))).number == 2


def test_a_condemned_base_is_refused_and_leaves_nothing_half_done():
    run = new_run()
    for step in (1, 2, 3):
        run.commit(step)
        run.judge(step, check="sound")
    base = as_base(run, 1, run.shard_keys(1)[:1])
    run.append(Retire(versions=(run.version(1).name,)))
    run.append(Condemn(versions=(run.version(1).name,)))
    with pytest.raises(RuleRefusedError, match="condemned"):
        recommitted(run, 1, base)


# --- one bad shard, many versions ------------------------------------------------------------------------------


def shared_and_bad(tmp_path):
    """1, 2 and 3 share a shard that rots; 4 was sent whole."""
    run = new_run(folder_store(tmp_path))
    for step, base in ((1, None), (2, 1), (3, 2), (4, None)):
        run.commit(step, base=base)
    flip_byte(tmp_path, run.shard_keys(1)[0])
    return run


def test_a_bad_shard_is_the_matter_of_every_version_that_names_it(tmp_path):
    run = shared_and_bad(tmp_path)
    result, _ = verify_bytes(run.store, run.name, run.version(2))
    assert result.evidence["keys"] == [run.shard_keys(1)[0]]
    record_verdicts(run.log, run.version(2), [result], checker="test")
    assert bad(run) == [3, 2, 1]


def test_whoever_was_told_only_that_it_failed_finds_the_shard_out(tmp_path):
    run = shared_and_bad(tmp_path)
    told = CheckResult(check="bytes", passed=False, reason="a worker could not read it")
    record_verdicts(run.log, run.version(3), [told], checker="test")
    assert bad(run) == [3, 2, 1]


def test_a_shard_of_its_own_concerns_nobody_else(tmp_path):
    run = new_run(folder_store(tmp_path))
    for step, base in ((1, None), (2, 1)):
        run.commit(step, base=base)
    flip_byte(tmp_path, run.shard_keys(1)[1])
    result, _ = verify_bytes(run.store, run.name, run.version(1))
    record_verdicts(run.log, run.version(1), [result], checker="test")
    assert bad(run) == [1]


def test_one_scrub_says_it_of_all(tmp_path):
    run = shared_and_bad(tmp_path)
    scrub_run(run.store, run.log, Pace(1e12))
    assert bad(run) == [3, 2, 1]
    verdicts = [v for v in read_run(run.store, run.name).versions.values() if v.passed]
    assert [v.number for v in verdicts] == [4]


def test_without_the_relatives_the_others_would_stay_trusted(tmp_path, monkeypatch):
    run = shared_and_bad(tmp_path)
    monkeypatch.setattr(sharing, "relatives", lambda *_: [])
    result, _ = verify_bytes(run.store, run.name, run.version(2))
    record_verdicts(run.log, run.version(2), [result], checker="test")
    assert bad(run) == [2]


def test_no_version_is_built_on_one_whose_bytes_are_bad(tmp_path):
    run = shared_and_bad(tmp_path)
    base = as_base(run, 3, run.shard_keys(3)[:1])
    name = run.version(3).name
    run.append(Verdict(versions=(name,), check="bytes", passed=False, checker="test"))
    with pytest.raises(RuleRefusedError, match="are bad"):
        recommitted(
            run, 3, Base(name=name, shards=base.shards, reused=frozenset(run.shard_keys(3)))
        )


def test_relatives_are_tied_by_bases_even_through_versions_that_are_gone():
    run = new_run()
    for step, base in ((1, None), (2, 1), (3, 2), (4, None)):
        run.commit(step, base=base)
    state = run.log.refresh()
    assert [v.number for v in relatives(state, state.versions[1])] == [2, 3]
    assert [v.number for v in relatives(state, state.versions[4])] == []
    state.versions[2] = replace(state.versions[2], status="swept")
    assert [v.number for v in relatives(state, state.versions[1])] == [3]
