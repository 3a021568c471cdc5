"""What must be equal for a resumed run to be bit-identical; recorded with every version, compared before training."""

from __future__ import annotations

import functools
import logging
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

from ray_workers.code_version import VARIABLE
from ray_workers.store.manifest import DROPPED_REASON, DROPPED_SAVES
from ray_workers.store.manifest_parts import INTERRUPTED

__all__ = [
    "changes",
    "describe_environment",
    "differences",
    "environment_of",
    "started_as",
    "warn_about_changes",
]

_PACKAGES = ("torch", "numpy", "ray", "torchdata", "pawl")
_log = logging.getLogger("pawl")


def describe_environment() -> dict[str, str]:
    """Library versions, threads and processor of this worker, as text."""
    found = {name: _version(name) for name in _PACKAGES}
    return {
        **found,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "code": os.environ.get(VARIABLE, ""),
    }


def started_as(entrypoint: str, cpus: float, gpus: float, code: str = "") -> dict[str, str]:
    """What it takes to start the same training again, beside its config and number of workers; as text.

    Args:
        entrypoint: the loop, as module:function.
        cpus: that each worker asks for.
        gpus: that each worker asks for.
        code: the version of the user's project, when it is known.
    """
    return {
        "entrypoint": entrypoint,
        "cpus_per_worker": f"{cpus:g}",
        "gpus_per_worker": f"{gpus:g}",
        **({"code": code} if code else {}),
    }


def environment_of(started: Mapping[str, str]) -> dict[str, str]:
    """This worker's environment, with what it was `started_as`. A code version set on the worker itself is nearer to what runs."""
    here = describe_environment()
    return {**here, **started, **({"code": here["code"]} if here["code"] else {})}


_NO_CONDITIONS = {
    "pawl",
    "code",
    DROPPED_SAVES,
    DROPPED_REASON,
    INTERRUPTED,
    *started_as("", 0, 0),
}
"""They say where a version comes from; the bits do not hang on them."""


def changes(before: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Name to (then, now) of everything that differs from the version's environment."""
    return differences(before, describe_environment())


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Name to (then, now) of every condition of bit-identity in which two environments differ."""
    return {
        name: (before.get(name, "?"), now.get(name, "?"))
        for name in sorted({*before, *now} - _NO_CONDITIONS)
        if before.get(name) != now.get(name)
    }


def warn_about_changes(before: Mapping[str, str]) -> None:
    differs = changes(before)
    if differs:
        listed = ", ".join(f"{name} {old} → {new}" for name, (old, new) in differs.items())
        _log.warning(
            "The resumed version was saved under other conditions (%s): training goes on, but its results may differ "
            "in the last bits from an uninterrupted run.",
            listed,
        )


@functools.cache  # read from disk, and asked for at each save
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"
