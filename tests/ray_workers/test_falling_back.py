"""A version that goes bad between the choice and the restore: quarantined, and the next one taken, in one attempt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from ray_workers import restoring
from ray_workers.startup import PHASES
from ray_workers.store.attempts import read_run
from ray_workers.store.errors import DamageError, DigestMismatchError
from ray_workers.store.opening import open_root
from ray_workers.store.shards import read_shard
from ray_workers.store.versions import load_manifest
from tests.support.factories import flip_byte
from tests.support.group_attempt import GroupAttempt, train_in_group
from tests.support.rank_pool import RankPool
from tests.support.small_training import Killed, final_digests, patient_process, small_loop


def spoiling(run, *numbers, delete=False):
    """A loop that finds the shards of some versions damaged when it starts, after they were read back and chosen."""
    folder = run.target.open().store
    state = read_run(folder, run.run)

    def loop(config: dict[str, Any]) -> None:
        for number in numbers:
            for entry in load_manifest(folder, run.run, state.versions[number]).shards:
                if delete:
                    folder.delete(entry.key)
                else:
                    flip_byte(run.staging.parent / "store", entry.key)
        small_loop()(config)

    return loop


@pytest.fixture
def killed(tmp_path):
    """A run with versions at steps 2, 4, 6 and 8, killed there; and the digests it must end with."""
    for name in ("whole", "run"):
        (tmp_path / name).mkdir()
    whole, run = patient_process(tmp_path / "whole"), patient_process(tmp_path / "run")
    whole.attempt(small_loop())
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=10))
    return run, final_digests(whole)


@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("delete", [False, True])
def test_the_next_version_is_taken_in_the_same_attempt(killed, delete, straight, monkeypatch):
    """Also when the damaged shards had gone straight into the model before they were known to be damaged."""
    run, expected = killed
    if straight:
        monkeypatch.setattr(restoring, "WHOLE_BYTES", 0)
    done = run.attempt(spoiling(run, 4, 3, delete=delete))
    assert final_digests(run) == expected
    attempt = done.state.attempts[done.fence]
    assert attempt.outcome == "completed"
    assert attempt.resume.number == 2
    assert [p.version.number for p in attempt.passed_over] == [4, 3]
    for number in (3, 4):
        assert done.state.versions[number].bad_bytes
    first = next(v for v in done.state.versions.values() if v.fence == done.fence)
    parent = load_manifest(run.target.open().store, run.run, first).parent
    assert parent is not None
    assert parent.number == 2, "the first version must name what was really restored"


def test_how_long_the_start_took_is_a_part_of_its_versions(killed):
    run, _ = killed
    run.attempt(small_loop())
    durations = run.newest_manifest().durations
    assert set(PHASES) - {"start_s"} <= durations.keys()
    assert all(durations[name] >= 0 for name in durations)


def test_with_no_other_version_the_attempt_ends_and_the_next_one_starts_afresh(killed):
    run, expected = killed
    with pytest.raises(DamageError, match="no other version"):
        run.attempt(spoiling(run, 1, 2, 3, 4))
    again = run.attempt(small_loop())
    assert again.point is None
    assert final_digests(run) == expected


def restored_where_one_rank_fails(attempt: GroupAttempt, number: int) -> Any:
    """Rank 1 alone cannot read the version; rank 0 has it whole by then."""
    store = open_root(attempt.url, create=False).store
    version = read_run(store, attempt.run).versions[number]
    bad = {entry.key for entry in load_manifest(store, attempt.run, version).shards}
    whole = read_shard

    def read(store, entry):
        if dist.get_rank() == 1 and entry.key in bad:
            raise DigestMismatchError(f"{entry.key} is planted damage.", key=entry.key)
        return whole(store, entry)

    with mock.patch.object(restoring, "read_shard", read):
        return train_in_group(attempt)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["tests.support.replicated_loop", "ray_workers.loops.gpt"])
def test_all_ranks_leave_a_version_that_one_of_them_cannot_read(tmp_path, loop):
    (tmp_path / "staging").mkdir()
    url = open_root(str(tmp_path / "store"), create=True).url
    config = {"epochs": 1}
    if loop.endswith("gpt"):
        config |= {"steps_per_epoch": 8, "batch_size": 2, "block": 16, "width": 16}
    attempt = GroupAttempt(
        url=url, run="run", staging=str(tmp_path / "staging"), loop=loop, config=config
    )
    pool = RankPool(tmp_path)
    try:
        whole = pool.run(train_in_group, replace(attempt, run="whole"))
        pool.run(train_in_group, replace(attempt, stop_after=7))
        resumed = pool.run(restored_where_one_rank_fails, attempt, 3)
    finally:
        pool.close()
    for (losses, problem), (expected, _) in zip(resumed, whole, strict=True):
        assert problem is None
        assert losses == expected[4:]
    state = read_run(open_root(url, create=False).store, "run")
    assert "planted damage" in str(state.versions[3].quarantine)
    assert state.versions[2].candidate
