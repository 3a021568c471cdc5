import ctypes
import logging
import os
import shutil
import types
from pathlib import Path
from typing import Any

import pytest

from ray_workers import job_parts
from ray_workers import staging as staging_module
from ray_workers.config import Saving
from ray_workers.hot_shards import note_stored
from ray_workers.staging import StagingRing
from ray_workers.staging_files import StagingFolder
from ray_workers.store.errors import InvalidInputError, StoreRefusedError

RUN, OTHER = "a" * 32, "b" * 32


def staging(folder, *, fence=5, run_id=RUN):
    return StagingFolder(folder=folder, run_id=run_id, fence=fence)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_ring_gives_each_buffer_to_one_save_at_a_time(tmp_path):
    ring = StagingRing(staging(tmp_path).allocate(0, count=2, size=5000))
    assert (ring.size, ring.idle) == (5000, True)
    first, second = ring.take(), ring.take()
    assert first is not None
    assert second is not None
    assert first.path != second.path
    assert ring.take() is None
    ring.give_back(first.path)
    assert not ring.idle
    assert ring.take() is first
    ring.give_back(first.path)
    ring.give_back(first.path)  # told twice, it is still one buffer
    ring.give_back("/unknown")
    assert ring.take() is first
    assert ring.take() is None
    ring.close()


def test_bytes_written_into_a_buffer_are_what_another_process_reads(tmp_path):
    paths = staging(tmp_path).allocate(0, count=1, size=10)
    ring = StagingRing(paths)
    buffer = ring.take()
    assert buffer is not None
    buffer.memory[:] = b"0123456789"
    assert Path(paths[0]).read_bytes() == b"0123456789"
    ring.close()
    again = StagingRing(paths)  # a worker that died maps the file again
    again.close()
    ring.close()
    assert ring.take() is None


class FakeDriver:
    """What CUDA is told: calls in order, each with an address that must be mapped then."""

    def __init__(self, monkeypatch, *, willing=True):
        self.calls, self.willing = [], willing
        monkeypatch.setattr(staging_module, "pin", self.pin)
        monkeypatch.setattr(staging_module, "unpin", self.unpin)

    def pin(self, address, length):
        self.calls.append(("pin", ctypes.string_at(address, length)))
        return self.willing

    def unpin(self, address):
        self.calls.append(("unpin", ctypes.string_at(address, 3)))


def test_a_ring_for_a_device_pins_each_buffer_once_and_unpins_it_while_it_is_mapped(
    tmp_path, monkeypatch
):
    driver = FakeDriver(monkeypatch)
    ring = StagingRing(staging(tmp_path).allocate(0, count=2, size=5000), pinned=True)
    assert driver.calls == [("pin", bytes(5000))] * 2
    for word in (b"one", b"two"):
        buffer = ring.take()
        assert buffer is not None
        buffer.memory[:3] = word
    assert len(driver.calls) == 2
    ring.close()
    assert driver.calls[2:] == [("unpin", b"one"), ("unpin", b"two")]
    ring.close()
    assert len(driver.calls) == 4


def test_a_ring_for_host_memory_pins_nothing(tmp_path, monkeypatch):
    driver = FakeDriver(monkeypatch)
    StagingRing(staging(tmp_path).allocate(0, count=2, size=5000)).close()
    assert driver.calls == []


def test_memory_that_cannot_be_pinned_is_a_slower_buffer_and_no_error(
    tmp_path, monkeypatch, caplog
):
    driver = FakeDriver(monkeypatch, willing=False)
    with caplog.at_level(logging.WARNING, logger="pawl"):
        ring = StagingRing(staging(tmp_path).allocate(0, count=1, size=5000), pinned=True)
    assert "could not be pinned" in caplog.text
    buffer = ring.take()
    assert buffer is not None
    buffer.memory[:3] = b"one"
    ring.close()
    assert [name for name, _ in driver.calls] == ["pin"]


def test_files_are_reserved_private_and_replaced(tmp_path):
    folder = staging(tmp_path)
    first = folder.allocate(1, count=2, size=4096)
    assert [Path(path).stat().st_size for path in first] == [4096, 4096]
    assert Path(first[0]).stat().st_mode & 0o777 == 0o600
    assert Path(first[0]).stat().st_blocks * 512 >= 4096  # reserved, not sparse
    kept = folder.allocate(0, count=1, size=10)
    folder.allocate(1, count=1, size=8192)
    assert [(tmp_path / name).stat().st_size for name in names(tmp_path)] == [10, 8192]
    assert folder.owns(kept[0])
    assert not folder.owns(first[1])


def test_leftovers_of_closed_fences_are_removed_and_nothing_else(tmp_path):
    newer = staging(tmp_path, fence=9).allocate(0, count=1, size=10)
    mine = staging(tmp_path).allocate(0, count=1, size=10)
    old = staging(tmp_path, fence=3).allocate(0, count=2, size=10)
    old += staging(tmp_path, fence=3).allocate(1, count=1, size=10)
    other = staging(tmp_path, fence=3, run_id=OTHER).allocate(0, count=1, size=10)
    strange = tmp_path / f"pawl-{RUN[:16]}-3-notes.txt"
    strange.touch()
    assert staging(tmp_path).remove_leftovers() == len(old)
    left = [Path(path).name for path in (*newer, *other, *mine)]
    assert names(tmp_path) == sorted([*left, strange.name])
    assert not staging(tmp_path).owns(newer[0])
    assert not staging(tmp_path).owns(other[0])
    assert not staging(tmp_path).owns("/etc/passwd")


def test_whoever_saves_has_restored_and_needs_no_leftovers(tmp_path):
    old = staging(tmp_path, fence=3).allocate(0, count=1, size=10)
    note_stored(old[0], [], [])
    staging(tmp_path).allocate(1, count=1, size=10)
    assert names(tmp_path) == [f"pawl-{RUN[:16]}-5-r1-0"]


def test_files_that_nobody_holds_any_more_are_removed_after_a_while(tmp_path):
    dead = staging(tmp_path, run_id=OTHER).allocate(0, count=1, size=10)
    alive = staging(tmp_path, fence=3, run_id=OTHER).allocate(1, count=1, size=10)
    ring = StagingRing(alive)
    strange = tmp_path / "pawl-notes.txt"
    strange.touch()
    now = Path(dead[0]).stat().st_mtime
    mine = staging(tmp_path)
    assert mine.remove_abandoned(3600, now + 3599) == 0
    assert mine.remove_abandoned(3600, now + 3700) == 1
    assert names(tmp_path) == sorted([Path(alive[0]).name, strange.name])
    ring.close()
    assert mine.remove_abandoned(3600, now + 3700) == 1


def test_a_note_says_that_a_file_is_in_use(tmp_path):
    (path,) = staging(tmp_path).allocate(0, count=1, size=10)
    os.utime(path, (1000, 1000))
    note_stored(path, [], [])
    assert staging(tmp_path).remove_abandoned(3600, 5000) == 0


def test_release_removes_this_attempts_files_of_one_rank_or_all(tmp_path):
    folder = staging(tmp_path)
    for rank in (0, 1, 11):
        folder.allocate(rank, count=1, size=10)
    old = staging(tmp_path, fence=4).allocate(0, count=1, size=10)
    folder.release(1)
    assert len(names(tmp_path)) == 3
    folder.release()
    assert [str(tmp_path / name) for name in names(tmp_path)] == old


def test_a_mapping_outlives_its_file(tmp_path):
    folder = staging(tmp_path)
    ring = StagingRing(folder.allocate(0, count=1, size=10))
    folder.release()
    buffer = ring.take()
    assert buffer is not None
    buffer.memory[:] = bytes(10)
    ring.close()


def test_too_little_memory_is_refused_before_a_file_is_made(tmp_path, monkeypatch):
    usage = types.SimpleNamespace(total=100, used=1, free=99)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreRefusedError, match="--shm-size"):
        staging(tmp_path).allocate(0, count=2, size=50)
    assert names(tmp_path) == []
    staging(tmp_path).allocate(0, count=1, size=99)


def test_more_than_the_limit_is_refused_before_anything_is_removed(tmp_path):
    folder = StagingFolder(folder=tmp_path, run_id=RUN, fence=5, limit_bytes=100)
    had = folder.allocate(0, count=2, size=50)
    with pytest.raises(StoreRefusedError, match="staging_limit_mb") as refused:
        folder.allocate(0, count=2, size=51)
    assert "lower saving.buffers" in str(refused.value)
    assert names(tmp_path) == sorted(Path(path).name for path in had)


@pytest.mark.parametrize(("limit_mb", "limit_bytes"), [(None, None), (1.5, 1_500_000)])
def test_the_limit_is_what_the_run_was_given(limit_mb, limit_bytes):
    saving = Saving(staging_limit_mb=limit_mb)
    job: Any = types.SimpleNamespace(saving=saving, run_id=RUN, fence=5)
    assert job_parts.staging_of(job).limit_bytes == limit_bytes


def test_memory_that_goes_meanwhile_is_refused_and_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreRefusedError, match="No space left on device"):
        staging(tmp_path).allocate(0, count=1, size=50)
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="staging_dir"):
        staging(tmp_path / "absent").allocate(0, count=1, size=1)


@pytest.mark.parametrize("size", [0, -1])
def test_a_buffer_of_nothing_is_refused(tmp_path, size):
    with pytest.raises(InvalidInputError, match="at least one byte"):
        staging(tmp_path).allocate(0, count=1, size=size)
