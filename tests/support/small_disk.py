"""A disk of a few pages, so that a test can fill it: a tmpfs of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tiers import required_tiers

__all__ = ["PAGE", "SmallDisk", "small_disk"]

PAGE = 4096
"""Bytes; a file takes whole pages."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    folder: Path

    def leave(self, pages: int) -> None:
        """Fill the disk up to so many free pages."""
        self.free()
        with (
            (self.folder / "filler").open("wb", buffering=0) as filler,
            contextlib.suppress(OSError),
        ):
            while True:
                filler.write(bytes(PAGE))
        size = (self.folder / "filler").stat().st_size
        with (self.folder / "filler").open("rb+") as filler:
            filler.truncate(max(size - pages * PAGE, 0))

    def leave_files(self, files: int) -> None:
        """Use up the disk's inodes but for so many: no further file or folder can be made, whatever its size."""
        self.free()
        made = 0
        with contextlib.suppress(OSError):
            while True:
                self._taken(made).touch()
                made += 1
        for number in range(max(made - files, 0), made):
            self._taken(number).unlink()

    def free(self) -> None:
        for filler in self.folder.glob("filler*"):
            filler.unlink()

    def _taken(self, number: int) -> Path:
        return self.folder / f"filler-{number}"


@contextlib.contextmanager
def small_disk(folder: Path, *, pages: int = 256, files: int = 1000) -> Iterator[SmallDisk]:
    """Mount a disk at `folder`; at the end it is gone with all that is on it.

    Where nothing may be mounted (no root), the test is skipped, and fails where its tier has to run.
    """
    folder.mkdir(parents=True)
    options = f"size={pages * PAGE},nr_inodes={files},mode=0755"
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", options, "pawl-small-disk", str(folder)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        reason = f"A full disk is played on a tmpfs, and mounting one needs root: {mounted.stderr.strip()}"
        pytest.fail(reason) if "unit" in required_tiers() else pytest.skip(reason)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)
