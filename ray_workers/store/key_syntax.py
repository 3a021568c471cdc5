"""Which strings are object keys; the same on every backend, so that a key good on one is good on all (FORMAT.md §2)."""

from __future__ import annotations

import re

from ray_workers.store.errors import InvalidInputError

__all__ = ["TEMPORARY_PREFIX", "check_folder", "check_key", "check_prefix", "is_key"]

TEMPORARY_PREFIX = ".pawl-tmp-"
"""File names of half-written objects on a file system; never part of a key."""

_MAX_KEY = 700
"""Leaves room for a prefix of 300 bytes below S3's limit of 1024."""

_SEGMENT = re.compile(r"(?!\.{1,2}$)(?!\.pawl-tmp-)[A-Za-z0-9._=+@-]{1,200}")
_BEGINNING = re.compile(r"[A-Za-z0-9._=+@-]{0,200}")


def is_key(key: str) -> bool:
    """True for one or more legal segments joined by `/`: no `..`, no backslash, no control character, not absolute."""
    return len(key) <= _MAX_KEY and all(_SEGMENT.fullmatch(segment) for segment in key.split("/"))


def check_key(key: str) -> str:
    """Return `key` if it is legal, else raise `InvalidInputError`."""
    if not is_key(key):
        raise InvalidInputError(
            f"{key[:120]!r} is no object key: use segments of letters, digits, '.', '_', '-', '=', '+', '@' "
            f"joined by '/', without '..', and {_MAX_KEY} characters at most."
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if some legal key could start with it, else raise `InvalidInputError`; the empty one is legal."""
    folder, slash, beginning = prefix.rpartition("/")
    legal = not slash or is_key(folder)
    if not legal or not _BEGINNING.fullmatch(beginning) or len(prefix) > _MAX_KEY:
        raise InvalidInputError(f"{prefix[:120]!r} is no prefix of an object key.")
    return prefix


def check_folder(prefix: str) -> str:
    """Return `prefix` with one `/` behind it (the root's is empty), or raise `InvalidInputError`."""
    folder = check_prefix(prefix)
    return f"{folder}/" if folder and not folder.endswith("/") else folder
