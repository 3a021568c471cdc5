"""Runs first in every Ray process of a training: quiets what Ray and torchdata say about themselves."""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet"]

_CHATTY = {
    # Asks the dashboard, which an embedded cluster does not have, twice a second.
    "ray.train.v2._internal.execution.controller.placement_group_cleaner": logging.ERROR,
    "ray.train": logging.WARNING,
}


def quiet() -> None:
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
