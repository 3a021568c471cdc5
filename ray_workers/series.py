"""The metric series of one rank: every value of every step since the run began, carried from attempt to attempt.

The whole series is part of the state of each version, so a resumed run continues it without overlap or gap.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ray_workers.store.manifest import MAX_CURVE_POINTS, Curve

__all__ = ["MetricSeries"]

_log = logging.getLogger("pawl")

_LEAST_ROOM = 64


class MetricSeries:
    def __init__(self) -> None:
        self._steps: dict[str, array[int]] = {}
        self._values: dict[str, array[float]] = {}
        self._left_out: set[str] = set()
        """Names of which it was said that a value was left out."""

    def append(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add this step's values: numbers, or tensors and arrays of one element.

        Any other value is left out, which is said once for each name: a metric is a view, and hours of training must not
        end for one.
        """
        for name, value in metrics.items():
            number = _as_float(value)
            if number is None:
                self._say_once(name, step, value)
                continue
            self._steps.setdefault(name, array("q")).append(step)
            self._values.setdefault(name, array("d")).append(number)

    def _say_once(self, name: str, step: int, value: Any) -> None:
        if name in self._left_out:
            return
        self._left_out.add(name)
        _log.warning(
            "The metric %r of step %d is %s, which is no number: it is left out, here and at any later step, when it is none. "
            "Give session.advance a number, or a tensor or an array of one element.",
            name,
            step,
            _what(value),
        )

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


def _as_float(value: Any) -> float | None:
    """The value as a number; None: it is none that a float can hold."""
    if _elements(value) != 1:
        return None
    try:
        number = value.item() if hasattr(value, "item") else value
        # Not `float` of anything: it would read texts too.
        return float(number) if hasattr(type(number), "__float__") else None
    except (TypeError, ValueError, OverflowError):
        return None


def _elements(value: Any) -> int:
    # Asked ahead: an error of the device, which `item` may raise, is none of a metric that cannot be read.
    if isinstance(value, torch.Tensor):
        return 0 if value.is_meta else value.numel()
    return value.size if isinstance(value, np.ndarray) else 1


def _what(value: Any) -> str:
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    if value is None or not shape:
        return "None" if value is None else f"a {kind}"
    return f"a {kind} of shape {tuple(shape)}"
