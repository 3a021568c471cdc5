"""A session that keeps its one version in memory: what a loop is tested with where no store is wanted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Self

import torch

__all__ = ["FakeSession", "Killed"]


class Killed(BaseException):
    """Raised where a real process would have died."""


class FakeSession:
    """Stands for the class `CheckpointSession`; serves one call of a loop.

    Args:
        version: what an earlier session kept in `version`; resumed from.
        killed_after: keep a version after this many steps and die.
    """

    def __init__(
        self, version: dict[str, Any] | None = None, killed_after: int | None = None
    ) -> None:
        self.version = version
        self.killed_after = killed_after
        self.step: int = version["step"] if version else 0
        self.epoch: int = version["epoch"] if version else 0
        self.metrics: list[dict[str, float]] = []

    def open(self, *, model: Any, optimizer: Any, loader: Any, extra: Any, probe: Any) -> Self:
        assert probe is None or callable(probe)
        self.parts = {"model": model, "optimizer": optimizer, "loader": loader, **extra}
        if self.version is not None:
            model.load_state_dict(self.version["model"])
            optimizer.load_state_dict(copy.deepcopy(self.version["optimizer"]))
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def batches(self, *, epochs: int) -> Iterator[Any]:
        loader, resume = self.parts["loader"], self.version
        while self.epoch < epochs:
            loader.batch_sampler.set_epoch(self.epoch)
            if resume is not None:
                loader.load_state_dict(resume["loader"])
            batches = iter(loader)
            if resume is not None:
                torch.set_rng_state(resume["rng"])  # after `iter`, which draws
                resume = None
            yield from batches
            self.epoch += 1

    def advance(self, **metrics: float) -> None:
        self.step += 1
        self.metrics.append(metrics)
        if self.step == self.killed_after:
            state = {name: copy.deepcopy(part.state_dict()) for name, part in self.parts.items()}
            self.version = {
                **state,
                "rng": torch.get_rng_state(),
                "step": self.step,
                "epoch": self.epoch,
            }
            raise Killed
