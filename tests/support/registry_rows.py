"""Made-up rows of the registry, as many as wanted, without a log behind them."""

from __future__ import annotations

import json
from typing import Any

from ray_workers.store.registry import SCHEMA

__all__ = ["synthetic_rows"]


def synthetic_rows(run: str, count: int) -> list[dict[str, Any]]:
    """Version n has step 10 n, loss 1/n, lr 0.001 n and n % 4 layers."""
    return [
        {
            **dict.fromkeys(SCHEMA.names),
            "run": run,
            "run_id": "x",
            "number": number,
            "step": 10 * number,
            "rung": "sound",
            "status": "live",
            "tags": ["even"] if number % 2 == 0 else [],
            "bytes": 100,
            "committed_at": "2026-11-24T00:00:00+00:00",
            "manifest": f"{number:064x}",
            "payload": "state",
            "metrics_json": json.dumps({"loss": 1 / number}),
            "config_json": json.dumps(
                {"lr": 0.001 * number, "opt": "adam", "model": {"layers": number % 4}}
            ),
        }
        for number in range(1, count + 1)
    ]
