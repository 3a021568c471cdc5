"""Files that are whole or absent, and on the disk when a call returns (FORMAT.md §13).

The order is the contract: bytes into a temporary file of the same folder, fsync of the file, then `link` (fails when
the name is taken) or `rename`, then fsync of the folder. Nothing reads a temporary name, so a writer that dies at any
point leaves either the whole object or nothing visible.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from typing_extensions import Buffer

from ray_workers.store.buffers import flat_view
from ray_workers.store.errors import (
    ObjectNotFoundError,
    PawlError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.key_syntax import TEMPORARY_PREFIX

__all__ = [
    "create_file",
    "make_durable_folder",
    "make_folder",
    "open_file",
    "read_ranges",
    "replace_file",
    "sync_folder",
    "translated",
]

_WRITE_AT_MOST = 1 << 30
"""One `write` moves at most 2 GiB on Linux; stay clear of the edge."""

_BUFFERS_AT_MOST = 1024
"""Of one `preadv` on Linux."""

_NO_ENTRY = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_REFUSED = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or raise the quota",
    errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows",
    errno.EROFS: "the file system is mounted read-only: remount it, or choose another folder",
    errno.EACCES: "permission is denied: give this user the right to read and write there",
    errno.EPERM: "the operation is not permitted: look for the immutable flag (`lsattr -d`) or a "
    "security policy",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where the object's file belongs",
    errno.ENOTEMPTY: "a folder stands where the object's file belongs",
    errno.ELOOP: "a symbolic link stands there, and Pawl follows none below its root",
    errno.ENAMETOOLONG: "the path is longer than the file system allows: choose a shorter folder",
    errno.EINVAL: "the file system cannot do what durable writing needs: choose another one",
}


def create_file(path: Path, data: Buffer) -> None:
    """Create `path` read-only and durable.

    Raises `FileExistsError` when the name is taken; even then the folder is synced, because the caller goes on as if
    the object that it met there could no longer vanish.
    """
    temporary = _write_temporary(path.parent, data, read_only=True)
    taken = False
    try:
        os.link(temporary, path)
    except FileExistsError:
        taken = True
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise StoreRefusedError(
                f"The file system of {str(path.parent)!r} has no hard links ({error.strerror}), so Pawl cannot "
                "create a record atomically there: choose a folder on a local or NFS file system."
            ) from error
        raise
    finally:
        _discard(temporary)
    sync_folder(path.parent)
    if taken:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def replace_file(path: Path, data: Buffer) -> None:
    """Write `path` whole and durable, over whatever file was there."""
    temporary = _write_temporary(path.parent, data, read_only=False)
    try:
        temporary.rename(path)
    except OSError:
        _discard(temporary)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make `folder` and the folders above it that are missing; the name of each one made is durable."""
    if folder.is_dir():
        # Whoever made it may not have synced its name yet. A parent that we may not read is not ours to sync.
        with contextlib.suppress(OSError):
            sync_folder(folder.parent)
        return
    make_folder(folder.parent)
    make_durable_folder(folder)


def make_durable_folder(folder: Path) -> None:
    """Make `folder` below an existing one, or find it, and sync its name: whoever made it may not have done so yet."""
    try:
        folder.mkdir()
    except FileExistsError as error:
        if not folder.is_dir():
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)
            ) from error
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file to read; anything else that stands there counts as no such file."""
    # O_NONBLOCK: a named pipe put there by hand must not hang the reader.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_ranges(descriptor: int, start: int, targets: Sequence[memoryview]) -> int:
    """Fill the targets one after the other from `start`; how many bytes there were, fewer only at the file's end."""
    rest = deque(target for target in targets if target)
    done = 0
    while rest:
        found = os.preadv(descriptor, list(islice(rest, _BUFFERS_AT_MOST)), start + done)
        if not found:
            break
        done += found
        while rest and found >= len(rest[0]):
            found -= len(rest.popleft())
        if found:
            rest[0] = rest[0][found:]
    return done


@contextlib.contextmanager
def translated(action: str, key: str, root: Path, *, reading: bool = False) -> Iterator[None]:
    """Turn an `OSError` of the body into the error of our tree that says what to do."""
    try:
        yield
    except OSError as error:
        raise _translate(error, f"{action} {key!r} in {str(root)!r}", key, reading) from error


def _translate(error: OSError, attempt: str, key: str, reading: bool) -> PawlError:  # noqa: FBT001 - private, one caller
    code = error.errno or 0
    if reading and code in _NO_ENTRY:
        return ObjectNotFoundError(f"Could not {attempt}: there is no such object.", key=key)
    if code in _REFUSED:
        return StoreRefusedError(f"Could not {attempt}: {_REFUSED[code]}.", key=key, errno=code)
    reason = error.strerror or type(error).__name__
    return StoreUnavailableError(f"Could not {attempt}: {reason}. It may work later.", key=key)


def _write_temporary(folder: Path, data: Buffer, *, read_only: bool) -> Path:
    path = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write_all(descriptor, data)
            if read_only:  # the umask has spoken already; only the write bits go
                os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o444)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        _discard(path)
        raise
    return path


def _write_all(descriptor: int, data: Buffer) -> None:
    rest = flat_view(data)
    while rest:
        rest = rest[os.write(descriptor, rest[:_WRITE_AT_MOST]) :]


def _discard(temporary: Path) -> None:
    """Best effort: a temporary file that stays is invisible, and must not fail a write that succeeded."""
    with contextlib.suppress(OSError):
        temporary.unlink()
