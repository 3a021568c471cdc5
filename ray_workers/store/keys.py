"""Every object key is formatted and parsed here and nowhere else (FORMAT.md §2)."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from ray_workers.store.errors import InvalidInputError

__all__ = [
    "ROOT_KEY",
    "RUNS_PREFIX",
    "DataKey",
    "check_run_name",
    "data_fence",
    "fold_key",
    "folder_fence",
    "folds_prefix",
    "is_run_name",
    "log_key",
    "log_prefix",
    "manifest_key",
    "manifests_prefix",
    "new_shard_key",
    "parse_fold_key",
    "parse_log_key",
    "run_prefix",
    "shards_prefix",
]

ROOT_KEY = "pawl.json"
RUNS_PREFIX = "runs/"

_RUN_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?")
_SLOT = re.compile(r"(\d{20})\.json")
_FOLD = re.compile(r"(\d{20})-([0-9a-f]{64})\.json")
_DATA = re.compile(
    r"runs/([^/]+)/(?:manifests/(\d{20})/[0-9a-f]{64}\.json|shards/(\d{20})/[0-9a-f]{32}\.safetensors)"
)
_FOLDER = re.compile(r"runs/[^/]+/(?:manifests|shards)/(\d{20})/[^/]+")


def is_run_name(run: str) -> bool:
    """False also for a folder that somebody else made among the runs."""
    return _RUN_NAME.fullmatch(run) is not None and ".." not in run


def check_run_name(run: str) -> str:
    """Return `run` if it is legal, else raise `InvalidInputError`.

    Lower case only, because two names that differ in case alone are one folder on some file systems.
    """
    if not is_run_name(run):
        raise InvalidInputError(
            f"The run name {run[:120]!r} is not legal: use 1 to 100 lower-case letters, digits, '.', '_' or '-', "
            "beginning and ending with a letter or digit, without '..'."
        )
    return run


def run_prefix(run: str) -> str:
    return f"{RUNS_PREFIX}{check_run_name(run)}/"


def log_prefix(run: str) -> str:
    return f"{run_prefix(run)}log/"


def log_key(run: str, slot: int) -> str:
    return f"{log_prefix(run)}{slot:020d}.json"


def parse_log_key(key: str) -> int | None:
    """The slot that a log key names; None for a foreign object in that folder."""
    match = _SLOT.fullmatch(key.rpartition("/")[2])
    return int(match.group(1)) if match else None


def folds_prefix(run: str) -> str:
    return f"{run_prefix(run)}folds/"


def fold_key(run: str, slot: int, head: str) -> str:
    return f"{folds_prefix(run)}{slot:020d}-{head}.json"


def parse_fold_key(key: str) -> tuple[int, str] | None:
    match = _FOLD.fullmatch(key.rpartition("/")[2])
    return (int(match.group(1)), match.group(2)) if match else None


def manifest_key(run: str, fence: int, digest: str) -> str:
    return f"{run_prefix(run)}manifests/{fence:020d}/{digest}.json"


def manifests_prefix(run: str) -> str:
    return f"{run_prefix(run)}manifests/"


def shards_prefix(run: str) -> str:
    return f"{run_prefix(run)}shards/"


def folder_fence(key: str) -> int | None:
    """The fence in whose folder of manifests or shards something lies, whatever its own name; else None."""
    match = _FOLDER.match(key)
    return int(match.group(1)) if match else None


def new_shard_key(run: str, fence: int) -> str:
    """A key never used before: one per upload try (FORMAT.md §2, fresh keys)."""
    return f"{run_prefix(run)}shards/{fence:020d}/{uuid.uuid4().hex}.safetensors"


@dataclass(frozen=True, slots=True)
class DataKey:
    run: str
    fence: int


def data_fence(key: str) -> DataKey | None:
    """Run and fence of a manifest or shard key; None when `key` is neither, so nothing outside can be named."""
    match = _DATA.fullmatch(key)
    if match is None:
        return None
    return DataKey(match.group(1), int(match.group(2) or match.group(3)))
