"""Pawl beside its rivals, in one run: how long training stands still for a save, and what the save adds to it in all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmarks.figures import copy_seconds
from benchmarks.job import Job, Made, compute, work
from benchmarks.rivals import Begun, Contestant

__all__ = ["Round", "hold", "pawl", "train"]

_STEPS = 8
_LONGER = 2.0
"""Training goes on for so many times what the save takes alone: beside training it takes longer."""
_SHORTEST_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds."""

    stood: float
    """That training stood still, until the save began to run beside it and before its steps."""
    added: float | None
    """The same training with a save less without one; None: not measured."""
    memcpy: float
    """One copy of the same state, in the same round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    seconds: float
    stood: float
    durable: float


def pawl(job: Job) -> Contestant:
    def begin() -> Begun:
        job.save()
        return Begun(before_step=job.step, wait=wait)

    def wait() -> None:
        job.wait()
        job.tidy()

    return begin


def train(products: int, begin: Contestant = Begun) -> _Trained:
    """So much work in steps, with a save begun before the first one. What the save has left then is not training's."""
    began = time.perf_counter()
    begun = begin()
    stood = time.perf_counter() - began
    for _ in range(_STEPS):
        work(products // _STEPS)
        held = time.perf_counter()
        begun.before_step()
        stood += time.perf_counter() - held
    seconds = time.perf_counter() - began
    begun.wait()
    return _Trained(seconds=seconds, stood=stood, durable=time.perf_counter() - began)


def hold(
    contestants: Mapping[str, Contestant], made: Made, rounds: int, *, tell: Callable[[str], None]
) -> dict[str, list[Round]]:
    """All of them in random order within each round; how much each trains is found out first, and warms it."""
    spare = [torch.ones_like(tensor) for tensor in made.tensors]
    sizes = {name: _enough(begin) for name, begin in contestants.items()}
    found: dict[str, list[Round]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in random.sample(list(found), len(found)):
            found[name].append(
                _pair(contestants[name], sizes[name], copy_seconds(made.tensors, spare))
            )
        tell(f"rivals: round {number + 1} of {rounds}")
    return found


def _enough(begin: Contestant) -> int:
    """Products that last until a save is durable, found with warm memory."""
    train(0, begin)
    durable = train(0, begin).durable
    return int(compute(0.2) / 0.2 * max(_SHORTEST_S, _LONGER * durable))


def _pair(begin: Contestant, products: int, memcpy: float) -> Round:
    """The same work with a save and without one, in random order."""
    if random.choice((True, False)):  # noqa: S311 - no secret
        alone, saved = train(products), train(products, begin)
    else:
        saved, alone = train(products, begin), train(products)
    return Round(stood=saved.stood, added=saved.seconds - alone.seconds, memcpy=memcpy)
