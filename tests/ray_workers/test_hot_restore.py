"""Coming back from this node's staging files: what still holds is taken from there, everything else from storage."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ray_workers.hot_shards import HotShards, note_stored
from ray_workers.restoring import ShardCache
from ray_workers.staging import StagingRing
from ray_workers.staging_files import NOTE_SUFFIX, StagingFolder
from ray_workers.store import shards as shards_module
from ray_workers.store.checksum import digest_of
from ray_workers.store.memory import MemoryStore
from ray_workers.store.shards import ShardEntry, arrange, build_header
from tests.support.small_training import STEPS, Killed, final_digests, patient_process, small_loop

RUN = "a" * 32
MOVING, STILL = b"moving bytes" * 500, b"still bytes" * 700


def entry(content):
    key = f"runs/run/shards/{3:020d}/{digest_of(content)[-32:]}.safetensors"
    return ShardEntry(rank=0, key=key, bytes=len(content), digest=digest_of(content))


def folder(tmp_path, fence=9, run_id=RUN):
    return StagingFolder(folder=tmp_path, run_id=run_id, fence=fence)


def held(tmp_path):
    """The file of an attempt that died, with two shards in it, the second on a page of its own."""
    (path,) = folder(tmp_path, fence=3).allocate(0, count=1, size=20_000)
    with Path(path).open("r+b") as file:
        file.write(MOVING)
        file.seek(8192)
        file.write(STILL)
    note_stored(path, [0, 8192], [entry(MOVING), entry(STILL)])
    return Path(path)


def found(tmp_path, content):
    view = HotShards(folder(tmp_path)).read(entry(content))
    return None if view is None else bytes(view)


def test_shards_are_found_wherever_they_lie_in_the_file(tmp_path):
    held(tmp_path)
    hot = HotShards(folder(tmp_path))
    assert bytes(hot.read(entry(STILL)) or b"") == STILL
    assert bytes(hot.read(entry(MOVING)) or b"") == MOVING
    assert hot.read(entry(b"of another version")) is None
    assert hot.bytes_found == len(STILL) + len(MOVING)


def test_what_was_filled_anew_is_not_taken_and_the_rest_is(tmp_path):
    with held(tmp_path).open("r+b") as file:
        file.write(b"the next version")
    assert found(tmp_path, MOVING) is None
    assert found(tmp_path, STILL) == STILL


def test_a_file_that_a_living_worker_could_fill_is_not_read(tmp_path):
    ring = StagingRing([str(held(tmp_path))])
    assert found(tmp_path, STILL) is None
    ring.close()


def test_readers_share_a_file(tmp_path):
    held(tmp_path)
    first = HotShards(folder(tmp_path)).read(entry(STILL))
    assert found(tmp_path, STILL) == STILL
    assert bytes(first or b"") == STILL


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        "[1]",
        '{"begin": 0}',
        '[{"begin": -1, "bytes": 5, "digest": "x"}]',
        '[{"begin": 0, "bytes": 7700}]',
    ],
)
def test_a_note_that_is_none_is_passed_over(tmp_path, note):
    path = held(tmp_path)
    Path(f"{path}{NOTE_SUFFIX}").write_text(note)
    assert found(tmp_path, STILL) is None


def test_a_note_about_a_file_that_is_shorter_or_gone_is_passed_over(tmp_path):
    path = held(tmp_path)
    os.truncate(path, 9000)
    assert found(tmp_path, STILL) is None
    path.unlink()
    assert found(tmp_path, STILL) is None


def test_another_runs_files_are_not_looked_at(tmp_path):
    held(tmp_path)
    assert HotShards(folder(tmp_path, run_id="b" * 32)).read(entry(STILL)) is None


def test_piece_by_piece_from_memory_or_storage(tmp_path):
    """One shard still holds, the other comes from the store; both are right."""
    with held(tmp_path).open("r+b") as file:
        file.write(b"the next version")
    store = MemoryStore()
    store.put(entry(MOVING).key, MOVING)  # and not STILL: it is not asked for
    cache = ShardCache(store, folder(tmp_path))
    assert bytes(cache.read(entry(MOVING))) == MOVING
    assert bytes(cache.read(entry(STILL))) == STILL
    assert cache.hot is not None
    assert cache.hot.bytes_found == len(STILL)


def shard(fill):
    tensors = arrange([("x", "U8", (9_000_000,))])
    return build_header(tensors) + bytes([fill]) * 9_000_000


@pytest.mark.parametrize("filled_anew", [False, True])
def test_a_large_shard_goes_straight_from_memory_or_from_storage(tmp_path, filled_anew):
    content = shard(7)
    (path,) = folder(tmp_path, fence=3).allocate(0, count=1, size=len(content))
    Path(path).write_bytes(shard(8) if filled_anew else content)
    note_stored(path, [0], [entry(content)])
    store = MemoryStore()
    if filled_anew:
        store.put(entry(content).key, content)
    cache = ShardCache(store, folder(tmp_path))
    target = bytearray(9_000_000)
    cache.fill(entry(content), lambda _: [memoryview(target)])
    assert set(target) == {7}
    assert cache.hot is not None
    assert cache.hot.bytes_found == (0 if filled_anew else len(content))


def test_without_the_digest_other_bytes_would_be_restored(tmp_path, monkeypatch):
    """The guard: what a note says is never taken on trust."""
    with held(tmp_path).open("r+b") as file:
        file.write(b"the next version")
    monkeypatch.setattr("ray_workers.hot_shards.digest_of", lambda _: entry(MOVING).digest)
    assert found(tmp_path, MOVING) not in (None, MOVING)


# --- with a real training --------------------------------------------------------------------------------------------


def hot_process(tmp_path):
    run = patient_process(tmp_path)
    run.hot_restore = True
    return run


def counted_reads(monkeypatch):
    read, whole = [], shards_module.read_shard

    def counted(store, wanted):
        read.append(wanted.key)
        return whole(store, wanted)

    monkeypatch.setattr("ray_workers.restoring.read_shard", counted)
    return read


@pytest.mark.parametrize("straight", [False, True])
def test_a_killed_training_comes_back_from_memory_and_ends_the_same(
    tmp_path, monkeypatch, straight
):
    if straight:
        monkeypatch.setattr("ray_workers.restoring.WHOLE_BYTES", 0)
    for name in ("hot", "whole"):
        (tmp_path / name).mkdir()
    run, whole = hot_process(tmp_path / "hot"), patient_process(tmp_path / "whole")
    whole.attempt(small_loop())
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=9))
    gc.collect()  # the worker is gone, and with it its hold on the files
    assert list(run.staging.glob(f"*{NOTE_SUFFIX}"))
    read = counted_reads(monkeypatch)
    done = run.attempt(small_loop())
    assert done.resumed.step == 8
    assert read == []
    assert final_digests(run) == final_digests(whole)
    assert list(run.staging.iterdir()) == []  # what ended well leaves nothing


def test_damaged_memory_is_left_for_the_store(tmp_path, monkeypatch):
    for name in ("hot", "whole"):
        (tmp_path / name).mkdir()
    run, whole = hot_process(tmp_path / "hot"), patient_process(tmp_path / "whole")
    whole.attempt(small_loop())
    with pytest.raises(Killed):
        run.attempt(small_loop(die_at=9))
    gc.collect()
    for path in run.staging.glob("pawl-*-r0-[0-9]"):
        data = bytearray(path.read_bytes())
        for at in range(0, len(data), 64):
            data[at] ^= 1
        path.write_bytes(data)
    read = counted_reads(monkeypatch)
    run.attempt(small_loop())
    assert len(read) == 1
    assert final_digests(run) == final_digests(whole)
    assert run.newest_manifest().progress.step == STEPS


_HOLDER = """
import sys, time
from ray_workers.staging import StagingRing
ring = StagingRing([sys.argv[1]])
print("holding", flush=True)
time.sleep(600)
"""


def test_a_killed_process_holds_nothing(tmp_path):
    path = held(tmp_path)
    worker = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "holding\n"
        assert found(tmp_path, b"\0" * 5) is None
        assert found(tmp_path, STILL) is None
        worker.send_signal(signal.SIGKILL)
        worker.wait(30)
        with path.open("r+b") as file:  # touching the pages put zeros there
            file.seek(8192)
            file.write(STILL)
        assert found(tmp_path, STILL) == STILL
    finally:
        worker.kill()
        worker.wait(30)
        if worker.stdout is not None:
            worker.stdout.close()
