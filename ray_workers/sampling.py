"""The order of samples as one global sequence, dealt out to ranks: it stays the same whatever the number of workers.

Every epoch has one order, drawn from (seed, epoch). Step `t` of the epoch takes the samples from `t * global_batch` to
`(t + 1) * global_batch` of it, and of these rank `r` takes every `world_size`-th from the `r`-th on. So where training
stands in its data is one number, the samples taken by all ranks together, and any number of workers that divides the
global batch can go on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch.utils.data import Sampler

from ray_workers.store.errors import InvalidInputError, StateMismatchError

__all__ = ["GlobalBatches"]


class GlobalBatches(Sampler[list[int]]):
    """A `batch_sampler` for a DataLoader or StatefulDataLoader: this rank's part of every global batch.

    Samples that do not fill a last global batch are left out of that epoch.

    Args:
        size: number of samples in the data set.
        global_batch: samples that all ranks together take in one step; a multiple of `world_size`.
        rank: this worker.
        world_size: number of workers.
        seed: of the order, which is another one in every epoch; None: the order of the data set.

    Raises:
        InvalidInputError: the global batch cannot be divided, or is larger than the data set.
    """

    def __init__(
        self, size: int, *, global_batch: int, rank: int, world_size: int, seed: int | None = 0
    ) -> None:
        if global_batch < 1 or global_batch % world_size:
            raise InvalidInputError(
                f"A global batch of {global_batch} samples cannot be divided evenly among {world_size} workers: make it "
                f"a multiple of {world_size}, or take another number of workers.",
                unfit_workers=world_size,
            )
        if global_batch > size:
            raise InvalidInputError(
                f"One step of all workers takes {global_batch} samples, but the data set has only {size}: make the batch "
                "smaller, or take fewer workers."
            )
        self.global_batch = global_batch
        self._size, self._rank, self._world_size, self._seed = size, rank, world_size, seed
        self._epoch = 0
        self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is that epoch's, from its beginning."""
        self._epoch, self._start = epoch, 0

    def start_at(self, samples: int) -> None:
        """The next iteration begins after `samples` of the epoch, counted over all ranks.

        Raises:
            StateMismatchError: that lies inside a global batch, or beyond the epoch.
        """
        if samples % self.global_batch or not 0 <= samples <= len(self) * self.global_batch:
            raise StateMismatchError(
                f"The version stands at sample {samples} of its epoch, which is no multiple of a global batch of "
                f"{self.global_batch} within {self._size} samples: train with the global batch and the data set of the "
                "version, or resume from a version saved at the end of an epoch."
            )
        self._start = samples

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self._size // self.global_batch

    def __iter__(self) -> Iterator[list[int]]:
        return _Dealing(self, self._order(), self._start)

    def _order(self) -> list[int]:
        if self._seed is None:
            return list(range(self._size))
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order: list[int] = torch.randperm(self._size, generator=generator).tolist()
        return order

    def share(self, order: list[int], samples: int) -> list[int]:
        """This rank's part of the global batch that begins after `samples`."""
        return order[samples + self._rank : samples + self.global_batch : self._world_size]


class _Dealing(Iterator[list[int]]):
    """One epoch's iteration. torchdata asks it for its state, so that a position survives any start."""

    def __init__(self, batches: GlobalBatches, order: list[int], samples: int) -> None:
        self._batches, self._order, self._samples = batches, order, samples

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[int]:
        begin = self._samples
        if begin >= len(self._batches) * self._batches.global_batch:
            raise StopIteration
        self._samples += self._batches.global_batch
        return self._batches.share(self._order, begin)

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self._samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches.start_at(state["samples"])
        self._samples = state["samples"]
