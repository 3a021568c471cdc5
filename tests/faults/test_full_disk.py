"""The disk of a local store is full, at whatever write: what was stored stays, and the run goes on when there is space."""

from __future__ import annotations

import functools

import pytest

from ray_workers.store.errors import StoreRefusedError
from ray_workers.store.key_syntax import TEMPORARY_PREFIX
from ray_workers.store.local_folder import LocalFolderStore
from tests.support.factories import MadeUpRun
from tests.support.simulation.inspection import check_everything
from tests.support.simulation.processes import Process, Program, run_alone
from tests.support.simulation.programs import attempt, validates
from tests.support.simulation.world import seed_ids, simulated
from tests.support.small_disk import PAGE, small_disk

pytestmark = pytest.mark.fault

FULL = "the disk is full: free some space, or choose another folder"


def files_below(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name != "filler")


def test_an_object_that_does_not_fit_leaves_nothing_behind(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        store = LocalFolderStore(disk.folder / "root")
        store.put("a/small", b"x")
        disk.leave(3)
        for write in (store.put, store.put_if_absent):
            with pytest.raises(StoreRefusedError, match=FULL):
                write("a/large", bytes(4 * PAGE))
        assert files_below(disk.folder) == ["small"]
        store.put("a/fits", bytes(2 * PAGE))
        assert store.get("a/small") == b"x"


def test_a_record_that_finds_no_space_is_not_in_the_log_and_its_slot_is_used_later(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        store = LocalFolderStore(disk.folder / "root")
        made = MadeUpRun(store=store, name="run", ranks=1)
        made.start()
        made.commit(10)
        before = made.log.refresh().slot
        disk.leave(0)
        with pytest.raises(StoreRefusedError, match=FULL):
            made.judge(1)
        assert made.log.refresh().slot == before
        disk.free()
        made.judge(1)
        assert made.log.refresh().slot == before + 1
        assert made.version(1).rung == "sound"


def play(disk, leave):
    """Two attempts with their validator while space is short; then there is space again, and the oracle looks."""
    inner = LocalFolderStore(disk.folder / "root")
    programs: list[Program] = [
        functools.partial(attempt, flow="first", versions=2), validates,
        functools.partial(attempt, flow="second", versions=1),
    ]  # fmt: skip
    processes = [Process(str(place), program) for place, program in enumerate(programs)]
    run_alone(processes[0], inner, None, {})
    leave()
    for process in processes[1:]:
        run_alone(process, inner, None, {})
    ended = [process.told.ended for process in processes]
    for process in processes:
        if process.told.ended == "store_refused":
            process.told.ended = "done"  # this is how a full disk is to end it
    disk.free()
    assert not [name for name in files_below(disk.folder) if name.startswith(TEMPORARY_PREFIX)]
    check_everything(inner, processes, set())
    return ended


@pytest.mark.parametrize("short_of", ["pages", "files"])
def test_whatever_write_meets_the_full_disk_nothing_is_lost(tmp_path, short_of):
    """From nothing to plenty: each amount stops the second attempt at another write."""
    ends = []
    with simulated():
        for amount in range(0, 16, 1 if short_of == "pages" else 2):
            with small_disk(tmp_path / f"disk{amount}", files=100) as disk:
                seed_ids(amount)
                leave = disk.leave if short_of == "pages" else disk.leave_files
                ends.append(play(disk, functools.partial(leave, amount)))
    assert ends[0] == ["done", "store_refused", "store_refused"]
    assert ends[-1] == ["done", "done", "done"]
    assert ["done", "done", "store_refused"] in ends
