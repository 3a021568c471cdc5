"""Where training stands in its data: the epoch, the loader's own state, and how both come back.

A loader with `state_dict` and `load_state_dict` (torchdata's StatefulDataLoader) is positioned exactly. Any other
loader is positioned by taking and dropping the batches already seen, which is exact if its order is. A loader whose
batch sampler is `sampling.GlobalBatches` can also be positioned by another number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

from ray_workers.store.errors import StateMismatchError

__all__ = ["DataPosition"]


class DataPosition:
    """Iterates a loader over epochs, and knows at any time how to continue from there.

    Args:
        loader: an iterable of batches; None for loops that bring their own data.
    """

    def __init__(self, loader: Any | None) -> None:
        self._loader = loader
        self.epoch = 0
        """Epochs completed."""
        self._batches = 0
        """Batches taken in the running epoch."""
        self._resume_at: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """Epoch, batches taken in it, and the loader's own state; an epoch not begun has none."""
        inside = self._batches > 0 and hasattr(self._loader, "state_dict")
        return {
            "epoch": self.epoch,
            "batches": self._batches,
            "samples": self._samples(),
            "loader": self._loader.state_dict() if inside and self._loader is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state` at the next iteration.

        Raises:
            StateMismatchError: it comes from another number of workers, and this loader cannot be positioned by samples.
        """
        self.epoch = state["epoch"]
        self._batches = state["batches"]
        if state.get("resharded") and self._batches:
            self._batches = self._batches_at(state["samples"])
        self._resume_at = state

    def _samples(self) -> int | None:
        """Samples of the running epoch taken by all ranks together; None where that is not known."""
        sampler = self._global_sampler
        return None if sampler is None else self._batches * int(sampler.global_batch)

    @property
    def _global_sampler(self) -> Any | None:
        sampler = getattr(self._loader, "batch_sampler", None)
        return sampler if hasattr(sampler, "start_at") else None

    def _batches_at(self, samples: int | None) -> int:
        sampler = self._global_sampler
        if samples is None or sampler is None:
            raise StateMismatchError(
                "The version was saved in the middle of an epoch by another number of workers, and the position of its "
                "loader belongs to a rank each. Use the batch sampler ray_workers.sampling.GlobalBatches, which knows the "
                "position of all ranks together, or resume from a version saved at the end of an epoch."
            )
        sampler.start_at(samples)
        return samples // int(sampler.global_batch)

    def epoch_batches(self, positioned: Callable[[], None]) -> Iterator[Any]:
        """The batches left in the running epoch; afterwards the next epoch is the running one.

        Args:
            positioned: called once, when the iterator exists and stands at its place. Making an iterator draws from the
                global RNG, so the RNG of an epoch entered in its middle is set there and not before.
        """
        self._announce_epoch()
        resume, self._resume_at = self._resume_at, None
        if resume is None or not self._batches:
            self._batches = 0
            iterator = iter(_iterable(self._loader))
        else:
            iterator = self._continued(resume)
            positioned()
        for batch in iterator:
            self._batches += 1
            yield batch
        self.epoch += 1
        self._batches = 0

    def _continued(self, resume: dict[str, Any]) -> Iterator[Any]:
        loader, sampler = self._loader, self._global_sampler
        if resume.get("resharded") and sampler is not None:
            sampler.start_at(resume["samples"])
            return iter(_iterable(loader))
        if (
            resume["loader"] is not None
            and loader is not None
            and hasattr(loader, "load_state_dict")
        ):
            return self._positioned(loader, resume["loader"])
        iterator = iter(_iterable(loader))
        for _ in range(self._batches):
            next(iterator, None)
        return iterator

    def _positioned(self, loader: Any, state: dict[str, Any]) -> Iterator[Any]:
        loader.load_state_dict(state)
        try:
            return iter(loader)
        except (AssertionError, KeyError, ValueError) as error:
            raise StateMismatchError(
                "The loader cannot take up the stored position: it is not the loader it was, for instance with another "
                f"number of worker processes ({type(error).__name__} {error}). Use the loader as it was, or resume from a "
                "version saved at the end of an epoch."
            ) from error

    def at_last_batch(self) -> bool:
        """Whether the batch taken last is the epoch's last, as far as the loader knows its length."""
        try:
            return self._batches == len(_iterable(self._loader))
        except TypeError:
            return False

    def _announce_epoch(self) -> None:
        """Samplers shuffle by epoch: a resumed epoch must be told its number before its order is drawn."""
        for target in (
            self._loader,
            getattr(self._loader, "sampler", None),
            getattr(self._loader, "batch_sampler", None),
        ):
            if target is not None and hasattr(target, "set_epoch"):
                target.set_epoch(self.epoch)


def _iterable(loader: Any | None) -> Collection[Any]:
    # Not `loader or ()`: the truth of a loader is its length, and one over a stream has none.
    return () if loader is None else cast("Collection[Any]", loader)
