"""The GPT loop, which also writes down when each of its steps began."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ray_workers.loops import gpt

__all__ = ["train_loop"]


def train_loop(config: dict[str, Any]) -> None:
    """Train as `ray_workers.loops.gpt` does; the file that `times` names then holds the seconds at which steps began."""
    settings = dict(config)
    page = Path(settings.pop("times"))
    began: list[float] = []
    take = gpt.step

    def step(*parts: Any) -> float:
        began.append(time.perf_counter())
        return take(*parts)

    gpt.step = step  # type: ignore[assignment] # takes and gives the same
    try:
        gpt.train_loop(settings)
    finally:
        gpt.step = take
    page.write_text(json.dumps(began))
