"""Folders with real troubles: made with `mount` and `chattr`, taken away again whatever the test does."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["as_nobody", "immutable", "small_disk"]

_NOBODY = 65534


@contextlib.contextmanager
def small_disk(folder: Path, size: str, *options: str) -> Iterator[Path]:
    """A tmpfs of `size` mounted on `folder`; skips where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    _or_skip("mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", folder)
    try:
        yield folder
    finally:
        _run("umount", folder).check_returncode()


@contextlib.contextmanager
def immutable(folder: Path) -> Iterator[Path]:
    """`chattr +i`: not even root may write there."""
    _or_skip("chattr", "+i", folder)
    try:
        yield folder
    finally:
        _run("chattr", "-i", folder).check_returncode()


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's rights for the body, since root is refused nothing by a file's mode."""
    if os.geteuid() != 0:
        yield  # already nobody special
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def _or_skip(program: str, *arguments: str | Path) -> None:
    done = _run(program, *arguments)
    if done.returncode != 0:
        pytest.skip(f"{program} is not allowed here: {done.stderr.decode().strip()}")


def _run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed here")
    command = [path, *arguments]
    return subprocess.run(command, capture_output=True, check=False)
