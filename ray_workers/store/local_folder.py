"""Objects as files below one folder: `make train` without a server, NFS, and one machine's disk.

A record is created by `link`, which fails when the name exists, and is read-only from then on. No symbolic link below
the root is followed, so that no key reaches outside it; the root itself may be one.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from typing_extensions import Buffer

from ray_workers.store.durable_file import (
    create_file,
    make_durable_folder,
    make_folder,
    open_file,
    read_ranges,
    replace_file,
    translated,
)
from ray_workers.store.errors import (
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.key_syntax import (
    TEMPORARY_PREFIX,
    check_folder,
    check_key,
    check_prefix,
    is_key,
)
from ray_workers.store.leftovers import Leftover
from ray_workers.store.object_store import ObjectInfo

__all__ = ["LocalFolderStore"]


class LocalFolderStore:
    """A store below `root`, which need not exist yet: the first write makes it.

    A root that is gone later, or is another folder, is not made again: then its disk is not mounted, and what is
    written to the folder below the mount could be found by nobody.

    Args:
        root: a folder, absolute or relative to the current one.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        resolved = _resolved(Path(root))
        if resolved is None:
            raise StoreRefusedError(f"{str(root)!r} is a circle of symbolic links.")
        self._root = resolved
        # Folders whose own name is known to be durable; made or synced once per store object, not once per write.
        self._settled: set[Path] = set()
        self._identity: tuple[int, int] | None = None
        """Which folder the root is; None until it is known to exist."""
        with contextlib.suppress(OSError):
            self._identity = _identity(resolved)

    def __repr__(self) -> str:
        return f"LocalFolderStore({self.url!r})"

    @property
    def kind(self) -> str:
        return "local"

    @property
    def url(self) -> str:
        return str(self._root)

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        path = self._path(key)
        with translated("read", key, self._root, reading=True), open_file(path) as file:
            return file.read(-1 if at_most is None else at_most + 1)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise InvalidInputError(f"The range {start}+{length} of {key!r} is negative.", key=key)
        path = self._path(key)
        with translated("read", key, self._root, reading=True), open_file(path) as file:
            file.seek(start)
            return file.read(length)

    def read_into(self, key: str, start: int, *targets: memoryview) -> int:
        if start < 0:
            raise InvalidInputError(f"The start {start} in {key!r} is negative.", key=key)
        path = self._path(key)
        with translated("read", key, self._root, reading=True), open_file(path) as file:
            return read_ranges(file.fileno(), start, targets)

    def put(self, key: str, data: Buffer) -> None:
        path = self._path(key)
        with translated("write", key, self._root):
            self._write(path, data, replace_file)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        path = self._path(key)
        with translated("create", key, self._root):
            try:
                self._write(path, data, create_file)
            except FileExistsError as error:
                raise ObjectExistsError(
                    f"{key!r} exists already in {self.url}.", key=key
                ) from error

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with translated("look up", key, self._root, reading=True):
            status = path.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise ObjectNotFoundError(f"There is no object {key!r} in {self.url}.", key=key)
        return ObjectInfo(key=key, size=status.st_size, modified=status.st_mtime)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        folder, slash, _ = check_prefix(prefix).rpartition("/")
        return self._walk(self._folder(folder), folder + slash, prefix, after)

    def list_folders(self, prefix: str) -> Sequence[str]:
        base = check_folder(prefix)
        names = [name for name, _ in self._entries(self._folder(base), base) if name.endswith("/")]
        # An empty folder is what a failed first write or a sweep leaves; elsewhere it would not exist.
        return sorted(name[:-1] for name in names if next(self.list(base + name), None) is not None)

    def delete(self, key: str) -> None:
        path = self._path(key)
        absent = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        with translated("delete", key, self._root), contextlib.suppress(*absent):
            # Not synced: a file that comes back after a power cut is one that nothing refers to.
            path.unlink()

    def leftovers(self, prefix: str) -> Iterator[Leftover]:
        """Temporary files of writes that were cut off, and `NAME#N` files of other writers, in folders of objects."""
        folder = self._folder(check_folder(prefix).rstrip("/"))
        for path in sorted(folder.rglob("*")):
            staged = path.name.startswith(TEMPORARY_PREFIX) or "#" in path.name
            with contextlib.suppress(FileNotFoundError):
                status = path.stat(follow_symlinks=False)
                if staged and stat.S_ISREG(status.st_mode):
                    key = path.relative_to(self._root).as_posix()
                    yield Leftover(
                        key=key, bytes=status.st_size, what="staging file", handle=path.name
                    )

    def remove_leftover(self, leftover: Leftover) -> None:
        folder, _, name = leftover.key.rpartition("/")
        if name != leftover.handle or not (name.startswith(TEMPORARY_PREFIX) or "#" in name):
            raise InvalidInputError(f"{leftover.key!r} is no staging file.", key=leftover.key)
        with translated("delete", leftover.key, self._root):
            (self._folder(folder) / name).unlink(missing_ok=True)

    def _write(self, path: Path, data: Buffer, write: Callable[[Path, Buffer], None]) -> None:
        try:
            self._settle(path.parent)
            write(path, data)
        except FileNotFoundError:
            # Somebody removed the folder since it was settled: once more, from the root down.
            self._refuse_another_root()
            self._settled.clear()
            self._settle(path.parent)
            write(path, data)

    def _settle(self, folder: Path) -> None:
        if folder in self._settled:
            return
        if self._root in (folder, folder.parent):
            self._refuse_another_root()
        if folder == self._root:
            make_folder(folder)
            self._identity = _identity(folder)
        else:
            self._settle(folder.parent)
            make_durable_folder(folder)
        self._settled.add(folder)

    def _refuse_another_root(self) -> None:
        if self._identity is not None and _identity(self._root) != self._identity:
            raise StoreUnavailableError(
                f"The store's folder {self.url!r} is gone, or another folder stands in its place: is its disk mounted? "
                "Nothing was written there. Mount it again, or start again to make a new store."
            )

    def _path(self, key: str) -> Path:
        folder, _, name = check_key(key).rpartition("/")
        return self._folder(folder) / name

    def _folder(self, key: str) -> Path:
        folder = self._root / key
        if _resolved(folder) != folder:
            raise StoreRefusedError(
                f"A symbolic link stands in the path {str(folder)!r}. Pawl follows none below its root, so that "
                "no object lies outside: move the files there, or make the root itself the link.",
                key=key,
            )
        return folder

    def _walk(self, folder: Path, base: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        for name, entry in self._entries(folder, base):
            key = base + name
            if name.endswith("/"):
                wanted = key.startswith(prefix) or prefix.startswith(key)
                if wanted and (key > after or after.startswith(key)):
                    yield from self._walk(folder / entry.name, key, prefix, after)
            elif key.startswith(prefix) and key > after:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    status = entry.stat(follow_symlinks=False)
                    yield ObjectInfo(key=key, size=status.st_size, modified=status.st_mtime)

    def _entries(self, folder: Path, base: str) -> builtins.list[tuple[str, os.DirEntry[str]]]:
        """Files, and folders with a `/` behind their name, in key order; nothing that is no part of a key."""
        try:
            with translated("list", base, self._root, reading=True), os.scandir(folder) as entries:
                return sorted(
                    (f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
                    for entry in entries
                    if is_key(entry.name) and _is_plain(entry)
                )
        except ObjectNotFoundError:
            return []


def _is_plain(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Names one folder for as long as it is mounted; None: it is not there."""
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except RuntimeError:  # a circle of links
        return None
