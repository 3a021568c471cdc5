"""The metric series of one rank: every value of every step since the run began, carried from attempt to attempt.

The whole series is part of the state of each version, so a resumed run continues it without overlap or gap.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ray_workers.store.errors import InvalidInputError
from ray_workers.store.manifest import MAX_CURVE_POINTS, Curve

__all__ = ["MetricSeries"]


class MetricSeries:
    def __init__(self) -> None:
        self._steps: dict[str, array[int]] = {}
        self._values: dict[str, array[float]] = {}

    def append(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add this step's values: numbers, or tensors of one element.

        Raises:
            InvalidInputError: a value is neither; it names the metric.
        """
        for name, value in metrics.items():
            self._steps.setdefault(name, array("q")).append(step)
            self._values.setdefault(name, array("d")).append(_as_float(name, value))

    def latest(self) -> dict[str, float]:
        """The newest value of every metric."""
        return {name: values[-1] for name, values in self._values.items()}

    def state(self) -> dict[str, Any]:
        """`{name: {"steps": int64[n], "values": float64[n]}}`, copied: an array cannot grow while it is viewed."""
        return {
            name: {
                "steps": np.array(self._steps[name], dtype=np.int64),
                "values": np.array(self._values[name], dtype=np.float64),
            }
            for name in sorted(self._values)
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace everything by what `state` returned earlier."""
        self._steps = {n: array("q", np.asarray(s["steps"]).tolist()) for n, s in state.items()}
        self._values = {n: array("d", np.asarray(s["values"]).tolist()) for n, s in state.items()}

    def curves(self) -> dict[str, Curve]:
        """Every series thinned to at most `MAX_CURVE_POINTS` points, first and last kept."""
        return {name: _thin(self._steps[name], self._values[name]) for name in sorted(self._values)}


def _thin(steps: array[int], values: array[float]) -> Curve:
    count = len(values)
    if count <= MAX_CURVE_POINTS:
        picked = range(count)
    else:
        spread = np.linspace(0, count - 1, MAX_CURVE_POINTS).round().astype(int)
        picked = spread.tolist()
    return Curve(steps=tuple(steps[i] for i in picked), values=tuple(values[i] for i in picked))


def _as_float(name: str, value: Any) -> float:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return float(value.detach())
    if isinstance(value, bool | int | float | np.number):
        return float(value)
    raise InvalidInputError(
        f"The metric {name!r} given to session.advance is a {type(value).__name__}; give a number or a tensor of one "
        "element."
    )
