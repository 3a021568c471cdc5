"""The GPT loop, whose session saves in turns: what the controller wants for some saves, then nothing for as many steps."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import Turns
from ray_workers.deciding import Decider
from ray_workers.loops import gpt

__all__ = ["train_loop"]


def train_loop(config: dict[str, Any]) -> None:
    """Train as `ray_workers.loops.gpt` does, on one worker; the file that `marks` names then holds where stretches began."""
    settings = dict(config)
    page = Path(settings.pop("marks"))
    turns = Turns(saves=settings.pop("saves"), warm=settings.pop("warm"), clock=time.perf_counter)
    wanted = Decider.due

    def due(self: Decider, step: int, epoch: int) -> bool:
        return turns.due(step, lambda: wanted(self, step, epoch))

    # After some hundred steps this model has numbers below the smallest normal one, and its steps get ever longer.
    torch.set_flush_denormal(True)
    Decider.due = due  # type: ignore[method-assign] # takes and gives the same
    try:
        gpt.train_loop(settings)
    finally:
        Decider.due = wanted  # type: ignore[method-assign]
    page.write_text(json.dumps([asdict(mark) for mark in turns.marks]))
