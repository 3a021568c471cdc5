"""The instruments of `metrics` in Ray: its agents export them to Prometheus on every node."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from ray_workers.metrics import DEFINITIONS

__all__ = ["RayInstruments"]


class RayInstruments:
    """Made on first use: a metric that was never touched is not exported."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        if value > 0:  # Ray refuses to count nothing
            with contextlib.suppress(Exception):
                self._instrument(name).inc(value, tags=dict(labels))

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        with contextlib.suppress(Exception):
            self._instrument(name).set(value, tags=dict(labels))

    def observe(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        with contextlib.suppress(Exception):
            # Ray's histograms take no nought.
            self._instrument(name).observe(max(value, 1e-9), tags=dict(labels))

    def _instrument(self, name: str) -> Any:
        with self._lock:
            if name not in self._made:
                self._made[name] = _make(name)
            return self._made[name]


def _make(name: str) -> Any:
    wanted = DEFINITIONS[name]
    if wanted.kind == "histogram":
        return Histogram(
            name, description=wanted.told, boundaries=list(wanted.buckets), tag_keys=wanted.labels
        )
    kind = Counter if wanted.kind == "counter" else Gauge
    return kind(name, description=wanted.told, tag_keys=wanted.labels)
