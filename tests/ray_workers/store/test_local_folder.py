"""The local folder: the conformance suite, and what only a file system can do to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ray_workers.store.errors import (
    ObjectNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from tests.ray_workers.store.store_conformance import (
    Reopen,
    SharedStoreConformance,
    StoreConformance,
)
from tests.support.factories import MadeUpRun, folder_store


class TestLocalFolderStore(StoreConformance, SharedStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return LocalFolderStore(tmp_path / "root")

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen:
        return lambda: LocalFolderStore(tmp_path / "root")

    @pytest.fixture
    def target(self, tmp_path: Path) -> StorageTarget:
        return StorageTarget(str(tmp_path / "root"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def local(root: Path) -> LocalFolderStore:
    return LocalFolderStore(root)


def test_nothing_is_made_before_the_first_write(local, root):
    assert list(local.list("")) == []
    assert local.list_folders("") == []
    with pytest.raises(ObjectNotFoundError):
        local.get("a")
    local.delete("a")
    assert not root.exists()


def test_a_record_is_read_only_and_data_follows_the_umask(local, root):
    before = os.umask(0o027)
    try:
        local.put_if_absent("record", b"")
        local.put("data", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "record").stat().st_mode) == 0o440
    assert stat.S_IMODE((root / "data").stat().st_mode) == 0o640


def test_a_half_written_file_is_never_listed_nor_read(local, root):
    local.put("runs/a/log/1", b"")
    (root / "runs/a/log/.pawl-tmp-0123").write_bytes(b"half")
    (root / "runs/b/log").mkdir(parents=True)
    (root / "runs/b/log/.pawl-tmp-4567").write_bytes(b"half")
    assert [info.key for info in local.list("runs/")] == ["runs/a/log/1"]
    assert local.list_folders("runs/") == ["a"]


def test_files_that_are_no_objects_are_passed_over(local, root):
    local.put("a", b"")
    (root / "with space").write_bytes(b"")
    (root / "pipe").parent.mkdir(exist_ok=True)
    os.mkfifo(root / "pipe")
    assert [info.key for info in local.list("")] == ["a"]
    for read in (local.get, local.head):
        with pytest.raises(ObjectNotFoundError):
            read("pipe")  # and does not wait for a writer


def test_no_symbolic_link_below_the_root_is_followed(local, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"not ours")
    local.put("a", b"")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "circle").symlink_to(root / "circle")
    for call in (local.get, local.head, local.delete, lambda key: local.put(key, b"x")):
        with pytest.raises(StoreRefusedError, match="symbolic link"):
            call("link/secret")
        with pytest.raises(StoreRefusedError, match="symbolic link"):
            call("circle/secret")
    with pytest.raises(StoreRefusedError, match="symbolic link"):
        local.put_if_absent("link/new", b"x")
    with pytest.raises(StoreRefusedError, match="symbolic link"):
        local.get("file")
    with pytest.raises(ObjectNotFoundError):
        local.head("file")
    with pytest.raises(StoreRefusedError, match="symbolic link"):
        list(local.list("link/"))
    assert [info.key for info in local.list("")] == ["a"]
    assert local.list_folders("") == []
    local.put("file", b"mine")  # a rename replaces the link, not what it points to
    assert (outside / "secret").read_bytes() == b"not ours"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    store = LocalFolderStore(tmp_path / "root")
    store.put("a/b", b"x")
    assert (tmp_path / "disk/a/b").read_bytes() == b"x"


def test_a_root_of_circular_links_is_refused(tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(StoreRefusedError, match="circle"):
        LocalFolderStore(tmp_path / "circle")


def test_a_file_deleted_during_a_listing_is_left_out(local, root):
    for name in "abc":
        local.put(name, b"")
    listing = local.list("")
    assert next(listing).key == "a"
    (root / "b").unlink()
    assert [info.key for info in listing] == ["c"]


def test_a_root_that_is_gone_is_not_built_again_on_the_disk_below(tmp_path):
    disk = tmp_path / "disk"
    run = MadeUpRun(store=folder_store(disk / "root"))
    run.start()
    run.commit(10)
    disk.rename(tmp_path / "unmounted")
    disk.mkdir()
    with pytest.raises(StoreUnavailableError, match="is its disk mounted"):
        run.commit(20)
    assert list(disk.iterdir()) == []
    disk.rmdir()
    (tmp_path / "unmounted").rename(disk)
    assert run.commit(30) == 2


def test_another_folder_in_the_place_of_the_root_is_not_written_to(local, root, tmp_path):
    local.put("runs/a/log/1", b"1")
    root.rename(tmp_path / "unmounted")
    root.mkdir()
    for write in (local.put, local.put_if_absent):
        for key in ("runs/a/log/2", "runs/b/log/1", "probe/1"):
            with pytest.raises(StoreUnavailableError, match="another folder"):
                write(key, b"2")
    assert list(root.iterdir()) == []


def test_a_root_that_was_there_and_is_gone_before_the_first_write_is_not_made(root):
    LocalFolderStore(root).put("a", b"x")
    reader = LocalFolderStore(root)
    assert reader.get("a") == b"x"
    (root / "a").unlink()
    root.rmdir()
    with pytest.raises(StoreUnavailableError, match="is gone"):
        reader.put("b", b"y")
    assert not root.exists()
