"""Staging files: where they lie, how they are made, which are left over. The node agent's side of the ring.

A file is named by run, fence, rank and number, so that whoever comes later can tell whose it was: files of a fence
that is closed belong to nobody and are removed. Files are plain files in a memory-backed folder, opened and mapped
directly by both sides; either side can die and map them again.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ray_workers.store.errors import InvalidInputError, StoreRefusedError

__all__ = ["NOTE_SUFFIX", "StagingFolder"]

NOTE_SUFFIX = ".held"
"""Of the note beside a staging file that says what was stored from it (`hot_shards`)."""

_SHARED = re.compile(r"pawl-[0-9a-f]{16}-(?P<fence>\d+)-node-[0-9a-f]{32}(\.part[.0-9]*)?")
"""Of a shard that the ranks of a node share while they restore (`node_shards`)."""
_NAME = re.compile(r"pawl-(?P<run>[0-9a-f]{16})-(?P<fence>\d+)-r(?P<rank>\d+)-(?P<number>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingFolder:
    folder: Path
    run_id: str
    fence: int
    """Of the attempt's first writer; a restarted coordinator does not rename buffers."""
    limit_bytes: int | None = None
    """Of one rank's buffers together; None: what is free."""

    def allocate(self, rank: int, *, count: int, size: int) -> list[str]:
        """Create `count` files of `size` bytes for a rank, replacing what it had, memory reserved.

        What overtaken attempts left goes now: a rank that saves has restored, and so have all the others.

        Raises:
            StoreRefusedError: there is not enough memory behind the folder, or the limit allows no more.
        """
        if size <= 0:
            raise InvalidInputError("A staging buffer needs at least one byte.")
        self._check_limit(rank, count, size)
        self.release(rank)
        self.remove_leftovers()
        self.check_space(count * size)
        paths = [self._path(rank, number) for number in range(count)]
        for path in paths:
            self._create(path, size)
        return [str(path) for path in paths]

    def check_space(self, needed: int) -> None:
        """Raise `StoreRefusedError` unless `needed` bytes are free."""
        if not self.folder.is_dir():
            raise InvalidInputError(
                f"The staging folder {self.folder} does not exist; set saving.staging_dir."
            )
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise StoreRefusedError(
                f"Staging needs {needed / 1e6:.1f} MB in {self.folder}, and {free / 1e6:.1f} MB are free. Enlarge shared "
                "memory (for containers: --shm-size), lower saving.buffers, or set saving.staging_dir."
            )

    def _check_limit(self, rank: int, count: int, size: int) -> None:
        if self.limit_bytes is not None and count * size > self.limit_bytes:
            raise StoreRefusedError(
                f"Rank {rank} needs {count} staging buffers of {size / 1e6:.1f} MB, and saving.staging_limit_mb allows "
                f"{self.limit_bytes / 1e6:.1f} MB in all. Raise it, lower saving.buffers, or shard the state over more "
                "workers (FSDP2)."
            )

    def release(self, rank: int | None = None) -> None:
        """Remove this attempt's files, of one rank or of all. Mappings that are still open stay usable."""
        for path, fence, owner in self._mine():
            if fence == self.fence and (rank is None or owner == rank):
                _remove(path)
        if rank is None:
            self.remove_shared()

    def shared_path(self, digest: str) -> Path:
        """Where a shard lies for all ranks of this node while they restore."""
        return self.folder / f"pawl-{self.run_id[:16]}-{self.fence}-node-{digest[-32:]}"

    def remove_shared(self) -> None:
        """Remove what this attempt's ranks shared; mappings that are still open stay usable."""
        for path, fence in self._shared():
            if fence == self.fence:
                _remove(path)

    def noted(self) -> list[Path]:
        """Files of this run, of any attempt, beside which lies a note."""
        files = [path for path, _, _ in self._mine()]
        return [path for path in files if Path(f"{path}{NOTE_SUFFIX}").exists()]

    def remove_abandoned(self, older_than_s: float, now: float) -> int:
        """Remove files of whatever run that no living process holds and nothing was stored from for so long.

        Args:
            older_than_s: seconds; leaves a failed attempt's files to the one that comes after it.
            now: seconds since the epoch, as files are stamped.

        Returns:
            How many there were.
        """
        removed = 0
        for path in self.folder.glob("pawl-*"):
            if _belongs(path.name) and now - _last_use(path) > older_than_s:
                with suppress(OSError), _held_by_nobody(path):
                    _remove(path)
                    removed += 1
        return removed

    def remove_leftovers(self) -> int:
        """Remove files of overtaken fences of this run; how many there were."""
        staged = [(path, fence) for path, fence, _ in self._mine()]
        leftovers = [path for path, fence in (*staged, *self._shared()) if fence < self.fence]
        for path in leftovers:
            _remove(path)
        return len(leftovers)

    def owns(self, path: str) -> bool:
        """Whether `path` is one of this attempt's staging files."""
        return any(str(mine) == path and fence == self.fence for mine, fence, _ in self._mine())

    def _mine(self) -> list[tuple[Path, int, int]]:
        found = []
        for path in self.folder.glob(f"pawl-{self.run_id[:16]}-*"):
            match = _NAME.fullmatch(path.name)
            if match is not None:
                found.append((path, int(match["fence"]), int(match["rank"])))
        return found

    def _shared(self) -> list[tuple[Path, int]]:
        files = self.folder.glob(f"pawl-{self.run_id[:16]}-*-node-*")
        found = [(path, _SHARED.fullmatch(path.name)) for path in files]
        return [(path, int(match["fence"])) for path, match in found if match is not None]

    def _path(self, rank: int, number: int) -> Path:
        return self.folder / f"pawl-{self.run_id[:16]}-{self.fence}-r{rank}-{number}"

    def _create(self, path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(
                descriptor, 0, size
            )  # a full memory shows here, not as a SIGBUS in training
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StoreRefusedError(
                f"{size / 1e6:.1f} MB could not be reserved in {self.folder}: {error.strerror}."
            ) from None
        finally:
            os.close(descriptor)


def _belongs(name: str) -> bool:
    return (_NAME.fullmatch(name) or _SHARED.fullmatch(name)) is not None


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    Path(f"{path}{NOTE_SUFFIX}").unlink(missing_ok=True)


def _last_use(path: Path) -> float:
    """A mapping leaves no stamp on its file; the note is written with every save."""
    stamps = [0.0]
    for candidate in (path, Path(f"{path}{NOTE_SUFFIX}")):
        with suppress(OSError):
            stamps.append(candidate.stat().st_mtime)
    return max(stamps)


@contextmanager
def _held_by_nobody(path: Path) -> Iterator[None]:
    """Raises `OSError` when a worker holds the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
