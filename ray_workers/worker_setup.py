"""Runs first in every Ray process of a training: quiets what Ray and torchdata say about themselves."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import ray

__all__ = ["quiet"]

_CHATTY = {
    # Asks the dashboard, which an embedded cluster does not have, twice a second.
    "ray.train.v2._internal.execution.controller.placement_group_cleaner": logging.ERROR,
    "ray.train": logging.WARNING,
    # Each report on every rank; this logger is named by its file.
    str(Path(ray.__file__).parent / "train/v2/_internal/execution/context.py"): logging.WARNING,
}


def quiet() -> None:
    # Ray's own cleaner of placement groups looks for "the" cluster of this machine, and takes another one's if there are two.
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
