"""The local folder on real disks that are full or closed, and under writers that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ray_workers.store.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    RunNotFoundError,
    StoreRefusedError,
)
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.opening import open_root
from tests.support.real_folders import as_nobody, immutable, small_disk

pytestmark = pytest.mark.fault

WRITES = ["put", "put_if_absent"]


@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_is_named_and_nothing_is_half_there(write, tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = LocalFolderStore(disk)
        store.put_if_absent("log/1", b"kept")
        with pytest.raises(StoreRefusedError, match="disk is full: free some space"):
            getattr(store, write)("shards/big", bytes(2 << 20))
        assert [info.key for info in store.list("")] == ["log/1"]
        assert store.get("log/1") == b"kept"
        assert not any(path.is_file() for path in (disk / "shards").iterdir())
        getattr(store, write)(
            "shards/small", bytes(1 << 19)
        )  # what was half written was given back


def test_a_store_is_not_half_created_on_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(1 << 20))
        with pytest.raises(StoreRefusedError, match="disk is full"):
            open_root(str(disk / "store"), create=True)
        filler.unlink()
        with pytest.raises(RunNotFoundError):
            open_root(str(disk / "store"), create=False)
        assert open_root(str(disk / "store"), create=True).root_id


@pytest.mark.parametrize("write", WRITES)
def test_an_immutable_folder_is_refused_and_still_readable(write, tmp_path):
    root = open_root(str(tmp_path / "root"), create=True)
    with immutable(tmp_path / "root"):
        with pytest.raises(StoreRefusedError, match="lsattr"):
            getattr(root.store, write)("new", b"x")
        with pytest.raises(StoreRefusedError, match="lsattr"):
            root.store.delete("pawl.json")
        assert open_root(root.url, create=False).root_id == root.root_id
    with immutable(tmp_path / "root/probe"), pytest.raises(StoreRefusedError, match="lsattr"):
        open_root(root.url, create=True)


def test_a_store_in_an_immutable_folder_is_refused(tmp_path):
    with immutable(tmp_path), pytest.raises(StoreRefusedError, match="not permitted"):
        open_root(str(tmp_path / "store"), create=True)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_mount_is_refused(tmp_path):
    with small_disk(tmp_path / "disk", "64k", "ro") as disk:
        store = LocalFolderStore(disk)
        with pytest.raises(StoreRefusedError, match="mounted read-only"):
            store.put("a", b"x")


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    tmp_path.chmod(0o700)
    store = LocalFolderStore(tmp_path)
    store.put("a", b"x")
    if os.geteuid() != 0:
        pytest.skip("needs two users")
    with as_nobody():
        for call in (store.get, store.delete, lambda key: store.put(key, b"y")):
            with pytest.raises(StoreRefusedError, match="permission is denied"):
                call("a")
        with pytest.raises(StoreRefusedError, match="permission is denied"):
            list(store.list(""))
    assert store.get("a") == b"x"


# Blocks at a stage of the write and says so; the test then kills it.
WRITER = textwrap.dedent(
    """
    import os, sys, time
    from ray_workers.store.local_folder import LocalFolderStore

    root, write, stage = sys.argv[1:]
    store = LocalFolderStore(root)
    store.put("log/0", b"before")
    real = {name: getattr(os, name) for name in ("write", "fsync", "link", "rename", "unlink")}

    def pause():
        real["write"](1, b"at the stage\\n")
        time.sleep(60)

    def half_written(descriptor, data):
        real["write"](descriptor, data[: len(data) // 2])
        pause()

    def before(name):
        return lambda *arguments: pause()

    def after(name):
        return lambda *arguments: (real[name](*arguments), pause())

    name, moment = stage.split("-")
    setattr(os, name, half_written if moment == "half" else globals()[moment](name))
    getattr(store, write)("log/1", b"whole" * 100_000)
    """
)


@pytest.mark.parametrize(
    ("write", "stage", "visible"),
    [
        ("put", "write-before", False),
        ("put", "write-half", False),
        ("put", "fsync-before", False),
        ("put", "rename-before", False),
        ("put", "rename-after", True),
        ("put_if_absent", "write-half", False),
        ("put_if_absent", "fsync-before", False),
        ("put_if_absent", "fsync-after", False),
        ("put_if_absent", "link-before", False),
        ("put_if_absent", "link-after", True),
        ("put_if_absent", "unlink-after", True),
    ],
)
def test_a_writer_killed_in_mid_write_leaves_all_or_nothing(write, stage, visible, tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path, write, stage],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"at the stage\n"
        writer.send_signal(signal.SIGKILL)
    store = LocalFolderStore(tmp_path)
    expected = ["log/0", "log/1"] if visible else ["log/0"]
    assert [info.key for info in store.list("")] == expected
    whole = b"whole" * 100_000
    if visible:
        assert store.get("log/1") == whole
        with pytest.raises(ObjectExistsError):
            store.put_if_absent("log/1", b"next")
    else:
        with pytest.raises(ObjectNotFoundError):
            store.get("log/1")
        store.put_if_absent("log/1", b"next")
        assert store.get("log/1") == b"next"
