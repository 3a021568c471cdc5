"""What survives a power cut, a full disk and a file system that lacks something."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest

from ray_workers.store import durable_file
from ray_workers.store.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.local_folder import LocalFolderStore
from tests.support.power_cut import watch_disk

WRITES = ["put", "put_if_absent"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.mark.parametrize("write", WRITES)
def test_an_object_and_every_folder_above_it_survive_a_power_cut(write, root, monkeypatch):
    with watch_disk(monkeypatch, root.parent) as disk:
        store = LocalFolderStore(root / "deep")
        for key in ("pawl.json", "runs/a/log/1", "runs/a/log/2", "runs/b/log/1"):
            getattr(store, write)(key, b"bytes")
            assert disk.survives(root / "deep" / key), disk.steps
    assert disk.shown_before_durable == []


def test_the_steps_of_a_create_and_of_a_put_in_their_order(root, monkeypatch):
    store = LocalFolderStore(root)
    store.put("log/0", b"")
    with watch_disk(monkeypatch, root) as disk:
        store.put_if_absent("log/1", b"record")
        assert disk.steps == ["sync temporary", "link", "unlink", "sync log"]
        disk.steps.clear()
        store.put("log/2", b"data")
        assert disk.steps == ["sync temporary", "rename", "sync log"]
        disk.steps.clear()
        store.put_if_absent("runs/1", b"record")
        assert disk.steps[:2] == ["mkdir runs", "sync root"]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("kept", ["file", "folder"])
def test_without_either_fsync_the_model_of_the_disk_says_lost(write, kept, root, monkeypatch):
    # The guard of the two tests above: they must turn red when a sync is taken out of the code.
    real = os.fsync
    with watch_disk(monkeypatch, root.parent) as disk:
        believed = os.fsync

        def fsync(descriptor: int) -> None:
            is_folder = Path(f"/proc/self/fd/{descriptor}").is_dir()
            (believed if is_folder == (kept == "folder") else real)(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        getattr(LocalFolderStore(root), write)("log/1", b"bytes")
        assert not disk.survives(root / "log/1")


def test_who_meets_a_record_makes_its_name_durable_too(root, monkeypatch):
    # The creator may die between `link` and the folder's fsync. Who is told "exists" goes on from that record.
    ours, theirs = LocalFolderStore(root), LocalFolderStore(root)
    ours.put("log/0", b"")
    with watch_disk(monkeypatch, root.parent) as disk, monkeypatch.context() as patch:
        patch.setattr(durable_file, "sync_folder", lambda _: None)
        theirs.put_if_absent("log/1", b"bytes")
        assert not disk.survives(root / "log/1")
        patch.undo()
        with pytest.raises(ObjectExistsError):
            ours.put_if_absent("log/1", b"other")
        assert disk.survives(root / "log/1")


def test_a_folder_that_another_process_made_is_synced_once_more(root, monkeypatch):
    with watch_disk(monkeypatch, root.parent) as disk:
        with monkeypatch.context() as patch:
            patch.setattr(durable_file, "sync_folder", lambda _: None)
            LocalFolderStore(root).put("runs/a/log/0", b"")
        LocalFolderStore(root).put("runs/a/log/1", b"bytes")
        assert disk.survives(root / "runs/a/log/1"), disk.steps


@pytest.mark.parametrize(
    ("write", "failing"),
    [
        *itertools.product(["put"], ["write", "fsync", "rename"]),
        *itertools.product(["put_if_absent"], ["write", "fsync", "fchmod", "link"]),
    ],
)
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, (StoreRefusedError, "disk is full")),
        (errno.EDQUOT, (StoreRefusedError, "quota")),
        (errno.EROFS, (StoreRefusedError, "read-only")),
        (errno.EACCES, (StoreRefusedError, "permission")),
        (errno.EIO, (StoreUnavailableError, "Input/output error")),
        (errno.ESTALE, (StoreUnavailableError, "later")),
    ],
)
def test_a_failed_write_says_why_and_shows_nothing(
    write, failing, code, expected, root, monkeypatch
):
    store = LocalFolderStore(root)
    store.put("log/0", b"")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(expected[0], match=expected[1]) as caught:
            getattr(store, write)("log/1", b"bytes")
    assert "log/1" in str(caught.value)
    assert [entry.name for entry in (root / "log").iterdir()] == ["0"]
    getattr(store, write)("log/1", b"bytes")
    assert store.get("log/1") == b"bytes"


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_the_folder_is_refused(code, root, monkeypatch):
    def link(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreRefusedError, match="no hard links"):
        LocalFolderStore(root).put_if_absent("log/1", b"bytes")
    assert list(root.rglob("*")) == [root / "log"]


def test_a_temporary_file_that_cannot_be_removed_does_not_undo_a_success(root, monkeypatch):
    store = LocalFolderStore(root)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", _raise_busy)
        store.put_if_absent("log/1", b"bytes")
    assert len(list((root / "log").iterdir())) == 2
    assert [info.key for info in store.list("")] == ["log/1"]
    assert store.list_folders("") == ["log"]


def _raise_busy(*_: object, **__: object) -> None:
    raise OSError(errno.EBUSY, "busy")


def test_a_large_object_goes_out_in_pieces(root, monkeypatch):
    monkeypatch.setattr(durable_file, "_WRITE_AT_MOST", 1000)
    store = LocalFolderStore(root)
    data = os.urandom(10_001)
    store.put("a", memoryview(data))
    assert store.get("a") == data


def test_a_folder_removed_meanwhile_is_made_again(root):
    store = LocalFolderStore(root)
    store.put_if_absent("runs/a/log/1", b"1")
    (root / "runs/a/log/1").unlink()
    (root / "runs/a/log").rmdir()
    (root / "runs/a").rmdir()
    store.put_if_absent("runs/a/log/1", b"2")
    assert store.get("runs/a/log/1") == b"2"


def test_a_file_where_a_folder_is_needed_is_named_as_such(root):
    store = LocalFolderStore(root)
    store.put("a", b"file")
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StoreRefusedError, match="a file stands where a folder is needed"):
            write("a/b", b"")
    with pytest.raises(ObjectNotFoundError):
        store.get("a/b")
    root_is_file = LocalFolderStore(root / "a")
    with pytest.raises(StoreRefusedError, match="a file stands"):
        root_is_file.put("b", b"")


def test_a_folder_where_a_file_belongs_is_no_object(root):
    store = LocalFolderStore(root)
    store.put("a/b", b"")
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StoreRefusedError, match="a folder stands"):
            write("a", b"")
    assert [info.key for info in store.list("")] == ["a/b"]
