"""The figures, their bars, and what was sampled of them."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

import torch

from benchmarks.ratios import Bar

__all__ = ["FIGURES", "Figure", "Samples", "copy_seconds"]

Pairs = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    bar: Bar


FIGURES = {
    "stall": Figure(
        name="stall of a save ÷ a memcpy of the state, compute longer than the copy",
        bar=Bar(at_least=0.25, aim=0.05),
    ),
    "stall_bare": Figure(
        name="stall of a save ÷ a memcpy of the state, nothing to overlap with",
        bar=Bar(at_least=1.3, aim=1.05),
    ),
    "durable": Figure(
        name="time to durable ÷ a bare parallel upload", bar=Bar(at_least=1.2, aim=1.05)
    ),
    "cpu": Figure(
        name="CPU seconds per GiB saved ÷ the bare upload's", bar=Bar(at_least=1.6, aim=1.2)
    ),
    "speed": Figure(
        name="training speed kept during an upload ÷ during a bare upload",
        bar=Bar(at_least=0.97, aim=0.99, larger_is_better=True),
    ),
    "restore": Figure(
        name="verified restore ÷ a bare parallel download", bar=Bar(at_least=1.25, aim=1.05)
    ),
    "hot": Figure(
        name="verified restore from this node's memory ÷ a memcpy of the state",
        bar=Bar(at_least=2.0, aim=1.2),
    ),
    "decision": Figure(
        name="seconds until it is decided which of 1,000 versions to resume",
        bar=Bar(at_least=1.0, aim=0.2),
    ),
    "memory": Figure(
        name="extra memory of the host ÷ state, steady", bar=Bar(at_least=2.1, aim=1.05)
    ),
}


@dataclass(slots=True)
class Samples:
    """Pairs (value, baseline) by figure; and seconds, for orientation."""

    pairs: dict[str, Pairs] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, figure: str, value: float, baseline: float) -> None:
        self.pairs[figure].append((value, baseline))
        self.seconds[figure].append(value)
        self.seconds[f"{figure} baseline"].append(baseline)


def copy_seconds(tensors: list[torch.Tensor], spare: list[torch.Tensor]) -> float:
    """One memcpy of the whole state into memory that was touched before."""
    began = time.perf_counter()
    for source, target in zip(tensors, spare, strict=True):
        target.copy_(source)
    return time.perf_counter() - began
