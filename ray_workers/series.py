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

_LEAST_ROOM = 64


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
        """`{name: {"count": n, "steps": int64[room], "values": float64[room]}}`, copied.

        The room behind the `count` values is zeros: it grows by doubling, so that the layout of a version is nearly
        always that of the one before, and no save is planned anew for the sake of a longer series.
        """
        return {
            name: {
                "count": len(self._values[name]),
                "steps": _with_room(self._steps[name], np.int64),
                "values": _with_room(self._values[name], np.float64),
            }
            for name in sorted(self._values)
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace everything by what `state` returned earlier; one without a count has no room behind its values."""
        self._steps = {n: array("q", _first(s, "steps")) for n, s in state.items()}
        self._values = {n: array("d", _first(s, "values")) for n, s in state.items()}

    def curves(self) -> dict[str, Curve]:
        """Every series thinned to at most `MAX_CURVE_POINTS` points, first and last kept."""
        return {name: _thin(self._steps[name], self._values[name]) for name in sorted(self._values)}


def _with_room(items: array[Any], kind: type[np.generic]) -> np.ndarray[Any, Any]:
    room = np.zeros(max(_LEAST_ROOM, 1 << (len(items) - 1).bit_length()), dtype=kind)
    room[: len(items)] = items
    return room


def _first(stored: Mapping[str, Any], what: str) -> list[Any]:
    values = np.asarray(stored[what])
    found: list[Any] = values[: stored.get("count", len(values))].tolist()
    return found


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
