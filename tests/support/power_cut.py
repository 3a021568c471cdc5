"""What would be on the disk after a power cut at this moment: a model fed by the calls that the code under test makes.

POSIX promises no more than this: a file's bytes survive if the file was synced after its last write, and a name
survives if its folder was synced after the name was made. Everything else may be lost.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["PowerCut", "watch_disk"]


class PowerCut:
    """Believes that everything below `base` that exists at the start is durable, and learns the rest from fsyncs."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._sizes: dict[int, int] = {}
        self._names: set[Path] = {base, *base.rglob("*")}
        self.steps: list[str] = []
        """What happened, in order: `sync <name>`, `link`, `rename`, `unlink`, `mkdir <name>`."""
        self.shown_before_durable: list[Path] = []
        """Files that got their final name while their bytes could still be lost."""

    def survives(self, path: Path) -> bool:
        """True if the whole file would be found after a power cut."""
        status = path.stat()
        chain = [path, *(parent for parent in path.parents if parent.is_relative_to(self._base))]
        return self._sizes.get(status.st_ino) == status.st_size and self._names.issuperset(chain)

    def synced(self, path: Path) -> None:
        if path.is_dir():
            self._names.update(path.iterdir())
        else:
            status = path.stat()
            self._sizes[status.st_ino] = status.st_size
        self.steps.append(
            f"sync {'temporary' if path.name.startswith('.pawl-tmp-') else path.name}"
        )

    def shown(self, step: str, source: Path, target: Path) -> None:
        status = source.stat()
        if self._sizes.get(status.st_ino) != status.st_size:
            self.shown_before_durable.append(target)
        self.steps.append(step)


@contextlib.contextmanager
def watch_disk(monkeypatch: pytest.MonkeyPatch, base: Path) -> Iterator[PowerCut]:
    """Record the calls of the body that decide what survives."""
    disk = PowerCut(base)
    real_fsync, real_link, real_rename = os.fsync, os.link, os.rename
    real_unlink, real_mkdir = os.unlink, os.mkdir

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        disk.synced(Path(f"/proc/self/fd/{descriptor}").readlink())

    def link(source: Path, target: Path) -> None:
        disk.shown("link", source, target)
        real_link(source, target)

    def rename(source: Path, target: Path) -> None:
        disk.shown("rename", source, target)
        real_rename(source, target)

    def unlink(path: Path) -> None:
        disk.steps.append("unlink")
        real_unlink(path)

    def mkdir(path: Path, mode: int = 0o777) -> None:
        real_mkdir(path, mode)
        disk.steps.append(f"mkdir {Path(path).name}")

    with monkeypatch.context() as patch:
        for name, function in [
            ("fsync", fsync),
            ("link", link),
            ("rename", rename),
            ("unlink", unlink),
            ("mkdir", mkdir),
        ]:
            patch.setattr(os, name, function)
        yield disk
