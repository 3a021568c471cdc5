"""A version that goes bad between the choice and the restore: quarantined, and the next one taken, in one attempt.

One that only the machine of a rank cannot read keeps its rung, and the attempt ends."""

from __future__ import annotations

import socket
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from ray_workers import coming_back, restoring
from ray_workers.falling_back import BadRead, next_point
from ray_workers.messages import ResumePoint
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.restoring import read_manifest
from ray_workers.resume import choose
from ray_workers.startup import PHASES
from ray_workers.store.attempts import read_run, start_attempt
from ray_workers.store.errors import DamageError, DigestMismatchError, TrainingFailedError
from ray_workers.store.keys import manifest_key
from ray_workers.store.log import RunLog
from ray_workers.store.memory import MemoryStore
from ray_workers.store.opening import open_root
from ray_workers.store.shards import read_shard
from ray_workers.store.versions import load_manifest
from tests.support.factories import MadeUpRun, flip_byte
from tests.support.faulty_store import Fault, FaultyStore
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


def flipping_manifests(times):
    """`read_manifest` over a network that damages so many transfers of a manifest."""
    left = [Fault.FLIP_BIT] * times

    def read(store, point):
        flip = FaultyStore(
            store, lambda call: left.pop() if left and call.key == point.manifest_key else None
        )
        return read_manifest(flip, point)

    return mock.patch.object(coming_back, "read_manifest", read), left


def test_a_manifest_that_is_damaged_on_its_way_is_read_once_more(killed):
    run, expected = killed
    damaged, left = flipping_manifests(1)
    with damaged:
        done = run.attempt(small_loop())
    assert not left
    assert done.state.attempts[done.fence].passed_over == ()
    assert final_digests(run) == expected


def planted(run, *numbers):
    """What reads shards while a restore lasts, on a machine that damages those of some versions; the store is whole."""
    store = run.target.open().store
    state = read_run(store, run.run)
    bad = {
        entry.key
        for number in numbers
        for entry in load_manifest(store, run.run, state.versions[number]).shards
    }

    def read(store, entry):
        if entry.key in bad:
            raise DigestMismatchError(f"{entry.key} is planted damage.", key=entry.key)
        return read_shard(store, entry)

    return mock.patch.object(restoring, "read_shard", read)


def test_a_machine_that_cannot_read_a_whole_version_ends_the_attempt_and_quarantines_nothing(
    killed,
):
    run, expected = killed
    with (
        planted(run, 1, 2, 3, 4),
        pytest.raises(TrainingFailedError, match="planted damage") as met,
    ):
        run.attempt(small_loop())
    assert met.value.details == {"rank": 0, "node": socket.gethostname()}
    assert f"rank 0 on {socket.gethostname()}" in met.value.message
    state = read_run(run.target.open().store, run.run)
    assert [v.quarantine for v in state.versions.values()] == [None] * 4
    assert run.attempt(small_loop()).resumed.name.number == 4
    assert final_digests(run) == expected


class Ranks:
    """A channel whose other ranks were heard already."""

    def __init__(self, *others: str | None) -> None:
        self.others = others

    def any_failed(self, problem: str | None) -> str | None:
        return next((text for text in (problem, *self.others) if text is not None), None)

    def tell(self, text: str) -> str:
        return text


def falling_back(run, ranks, *, rank=0, world_size=4, reads_from=None):
    """Rank 2 of four could not read the newest version; what this rank goes on with."""
    store = run.store
    log = RunLog(store, run.name, by={})
    fence = start_attempt(log, flow_run_id=uuid.uuid4().hex, run_count=1)
    point = choose(store, log, fence, required="sound", policy=SoundnessPolicy()).point
    assert point is not None
    context: Any = SimpleNamespace(
        rank=rank, world_size=world_size, run=run.name, fence=fence, required="sound", policy=SoundnessPolicy(),
        storage=SimpleNamespace(open=lambda: SimpleNamespace(store=reads_from or store)),
    )  # fmt: skip
    return next_point(context, ranks, point, BadRead(rank=2, node="far", problem="k is damaged."))


@pytest.fixture
def three():
    made = MadeUpRun(store=MemoryStore(), name="run")
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
    made.judge(1, 2, 3, check="verified")
    made.judge(1, 2, 3)
    return made


def test_the_rank_and_the_node_that_cannot_read_it_are_named(three):
    with pytest.raises(TrainingFailedError) as met:
        falling_back(three, Ranks())
    assert met.value.details == {"rank": 2, "node": "far"}
    assert "while rank 2 on far restored it (k is damaged.)" in met.value.message
    assert three.version(3).rung == "sound"


@pytest.mark.parametrize("witness", [None, "rank 3 on near"])
def test_a_version_is_bad_only_if_it_holds_neither_on_the_first_rank_nor_on_the_last(
    three, witness
):
    """The first rank's own machine may be the one that damages whatever it reads."""
    key = three.shard_keys(3)[0]
    damaging = FaultyStore(three.store, lambda call: Fault.FLIP_BIT if call.key == key else None)
    ranks = Ranks(witness)
    if witness is None:
        assert falling_back(three, ranks, reads_from=damaging).name.number == 2
    else:
        with pytest.raises(TrainingFailedError, match="rank 3 on near reads them"):
            falling_back(three, ranks, reads_from=damaging)
    assert three.version(3).rung == ("sound" if witness else "quarantined")
    assert [three.version(n).rung for n in (1, 2)] == ["sound", "sound"]


def test_a_damaged_manifest_is_not_taken_for_that_of_a_newer_program(three):
    version = three.version(3)
    key = manifest_key(three.name, version.fence, version.manifest)
    data = three.store.get(key)
    three.store.delete(key)
    three.store.put(key, data.replace(b'"format":1', b'"format":9'))
    assert three.store.get(key) != data
    point = ResumePoint(
        run=three.name, name=version.name, manifest_key=key, step=30, rung="sound", foreign=False
    )
    with pytest.raises(DigestMismatchError, match="do not have the digest that was committed"):
        read_manifest(three.store, point)


@pytest.mark.parametrize(("rank", "reads"), [(0, True), (1, False), (2, False), (3, True)])
def test_the_first_and_the_last_rank_read_again(three, rank, reads):
    heard: list[str | None] = []

    class Heard(Ranks):
        def any_failed(self, problem: str | None) -> str | None:
            heard.append(problem)
            return "rank 0 on near"

    with pytest.raises(TrainingFailedError):
        falling_back(three, Heard(), rank=rank)
    assert heard == [f"rank {rank} on {socket.gethostname()}" if reads else None]


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
        again = pool.run(train_in_group, attempt)
    finally:
        pool.close()
    for losses, problem in resumed:
        assert losses == []
        assert "rank 1 on" in str(problem)
        assert "planted damage" in str(problem)
    for (losses, problem), (expected, _) in zip(again, whole, strict=True):
        assert problem is None
        assert losses == expected[6:]
    state = read_run(open_root(url, create=False).store, "run")
    assert all(version.candidate for version in state.versions.values())
