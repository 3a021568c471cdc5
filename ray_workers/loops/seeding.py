"""Every generator of a worker, seeded: a generator left alone starts from chance, and no two runs are alike."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["seed_worker"]


def seed_worker(seed: int) -> None:
    """Seed torch, numpy's global generator and Python's `random`."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
