"""Where training stands in its data: the epoch, the loader's own state, and how both come back.

A loader with `state_dict` and `load_state_dict` (torchdata's StatefulDataLoader) is positioned exactly. Any other
loader is positioned by taking and dropping the batches already seen, which is exact if its order is. In both cases it
begins the epoch with the random states that it began with, the process's and its own, and then gets those of the
version: an order that was drawn, and what its workers drew, come back. A loader whose batch sampler is
`sampling.GlobalBatches` can also be positioned by another number of workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, cast

import torch

from ray_workers import loader_generators, rng
from ray_workers.loader_shape import check_global_batch, check_shape, shape_of
from ray_workers.store.errors import InvalidInputError, StateMismatchError

__all__ = ["DataPosition"]

_log = logging.getLogger("pawl")

_NO_MORE = object()


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
        self.taken = 0
        """Batches handed out by this object, over all epochs."""
        self._began: Mapping[str, torch.Tensor] = {}
        """The loader's generators when the running epoch began."""
        self._random: Mapping[str, Any] | None = None
        """The process's own generators then; None: an older Pawl did not keep them."""
        self._shape: Mapping[str, int] = {}
        """Of the running epoch."""
        self._resume_at: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """Epoch, batches taken in it and their shape, what was drawn from, and the loader's own state.

        Of an epoch that is not begun there is only what it would be drawn from.
        """
        stateful = self.inside and hasattr(self._loader, "state_dict")
        return {
            "epoch": self.epoch,
            "batches": self._batches,
            "samples": self._samples(),
            "shape": dict(self._shape) if self.inside else {},
            "loader": self._loader.state_dict() if stateful and self._loader is not None else None,
            # Both: what an epoch's order was drawn from, and what is drawn next, which nothing else need tell.
            "generators": {
                "began": dict(self._began) if self.inside else {},
                "now": loader_generators.capture(self._loader),
            },
            # Always there, so that the layout of a version is nearly always that of the one before.
            "random": self._random if self.inside else _random_state(self._loader),
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
        if "generators" not in state and loader_generators.find(self._loader):
            _log.warning(
                "The loader has a random generator of its own, whose state does not come back: %s. What is drawn from it "
                "begins anew.",
                "another number of workers saved the version"
                if state.get("resharded")
                else "the version was made by a Pawl that did not keep it",
            )
        if self.inside and state.get("random") is None and not state.get("resharded"):
            _log.warning(
                "The version does not hold the random state in which its epoch began: it, or one before it in that epoch, was "
                "made by a Pawl that did not keep it, or for another number of workers. What the loader drew from it is drawn "
                "anew until the end of the epoch: an order without a generator of its own, augmentation in its workers."
            )

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
            positioned: called once, after `load`, when the loader stands where it stood. Making an iterator draws from
                the global RNG, so the RNG is set there: of an epoch entered in its middle when the iterator is at its
                place, of one that begins before its iterator is made.

        Raises:
            InvalidInputError: there is no loader, or a whole epoch of it has no batch.
        """
        if self._loader is None:
            raise InvalidInputError(
                "session.batches has nothing to iterate: the session was opened without a loader. Hand it over with "
                "CheckpointSession.open(loader=…), or iterate your own data and call session.advance after each step."
            )
        self._announce_epoch()
        resume, self._resume_at = self._resume_at, None
        if resume is None:
            iterator = self._begun()
        elif self._batches:
            iterator = self._continued(resume, positioned)
        else:
            self._iterate_before()
            loader_generators.restore(self._loader, _generators(resume, "now"))
            positioned()
            iterator = self._begun()
        for batch in iterator:
            self._batches += 1
            self.taken += 1
            yield batch
        if not self.inside:
            raise InvalidInputError(_why_empty(self._loader, self.epoch + 1))
        self.epoch += 1
        self._batches = 0

    def _begun(self) -> Iterator[Any]:
        self._batches = 0
        self._shape = shape_of(self._loader)
        self._began = loader_generators.capture(self._loader)
        self._random = _random_state(self._loader)
        return iter(_iterable(self._loader))

    def _continued(self, resume: dict[str, Any], positioned: Callable[[], None]) -> Iterator[Any]:
        self._check_shape(resume)
        self._began = _generators(resume, "began")
        self._random = resume.get("random")
        iterator = self._at_place(resume)
        loader_generators.restore(self._loader, _generators(resume, "now"))
        positioned()
        return iterator

    def _check_shape(self, resume: dict[str, Any]) -> None:
        self._shape = shape_of(self._loader)
        stored = resume.get("shape", {})  # versions made before it was kept have none
        if resume.get("resharded"):
            # Its place is one by samples, so batches may be of another size.
            check_shape({n: v for n, v in stored.items() if n == "samples"}, self._shape)
            return
        check_shape(stored, self._shape)
        if self._global_sampler is not None:
            check_global_batch(
                self._batches, resume["samples"], int(self._global_sampler.global_batch)
            )

    def _at_place(self, resume: dict[str, Any]) -> Iterator[Any]:
        loader, sampler = self._loader, self._global_sampler
        if resume.get("resharded") and sampler is not None:
            sampler.start_at(resume["samples"])
            return iter(_iterable(loader))
        if (
            resume["loader"] is not None
            and loader is not None
            and hasattr(loader, "load_state_dict")
        ):
            self._as_it_began()
            return self._positioned(loader, resume["loader"])
        self._iterate_before()
        self._as_it_began()
        iterator = iter(_iterable(loader))
        for taken in range(self._batches):
            if next(iterator, _NO_MORE) is _NO_MORE:
                raise _too_short(f"{taken} batches", self._batches)
        return iterator

    def _as_it_began(self) -> None:
        """All that the order of the epoch, and the seed of the loader's workers, were drawn from."""
        loader_generators.restore(self._loader, self._began)
        if self._random is not None:
            rng.restore(self._random)

    def _iterate_before(self) -> None:
        """Bring a loader whose workers persist to where its earlier epochs had brought it.

        It begins its first epoch otherwise than all others: with a seed for its workers, and two orders drawn by
        torchdata's sampler.
        """
        if self.epoch and getattr(self._loader, "persistent_workers", False):
            iter(_iterable(self._loader))

    def _positioned(self, loader: Any, state: dict[str, Any]) -> Iterator[Any]:
        loader.load_state_dict(state)
        try:
            return iter(loader)
        except StopIteration:
            raise _too_short("fewer", self._batches) from None
        except (AssertionError, KeyError, ValueError) as error:
            raise StateMismatchError(
                "The loader cannot take up the stored position: it is not the loader it was, for instance with another "
                f"number of worker processes ({type(error).__name__} {error}). Use the loader as it was, or resume from a "
                "version saved at the end of an epoch."
            ) from error

    @property
    def inside(self) -> bool:
        """Batches of the running epoch were taken."""
        return self._batches > 0

    def at_last_batch(self, of: int = 1) -> bool:
        """Whether fewer than `of` batches of the epoch are left, as far as the loader knows its length."""
        try:
            return 0 <= len(_iterable(self._loader)) - self._batches < of
        except TypeError:
            return False

    def _announce_epoch(self) -> None:
        """Samplers and data sets go by the epoch: a resumed one must be told its number before its order is drawn."""
        batches = getattr(self._loader, "batch_sampler", None)
        targets = (
            self._loader,
            getattr(self._loader, "sampler", None),
            batches,
            getattr(batches, "sampler", None),
            getattr(self._loader, "dataset", None),
        )
        # Each object once: a loader's sampler is its batch sampler's too.
        for target in {id(target): target for target in targets}.values():
            if target is not None and hasattr(target, "set_epoch"):
                target.set_epoch(self.epoch)


def _iterable(loader: Any | None) -> Collection[Any]:
    # Not `loader or ()`: the truth of a loader is its length, and one over a stream has none.
    return () if loader is None else cast("Collection[Any]", loader)


def _random_state(loader: Any | None) -> dict[str, Any] | None:
    """The process's own generators, but those on devices: no loader draws there."""
    if loader is None:
        return None
    return {name: state for name, state in rng.capture().items() if not name.startswith("cuda")}


def _why_empty(loader: Any, epoch: int) -> str:
    what = f"The loader ({type(loader).__name__}) gave no batch in the whole of epoch {epoch}, so nothing can be trained"
    if hasattr(loader, "__next__"):
        return f"{what}: it is an iterator, which begins only once. Give what makes the iterator."
    return (
        f"{what}: is its data set empty, or smaller than one batch with drop_last=True (on one rank, perhaps)? Give it data, "
        "or a smaller batch."
    )


def _too_short(gave: str, taken: int) -> StateMismatchError:
    return StateMismatchError(
        f"The version was saved after {taken} batches of an epoch, and the loader gives {gave} here: its data set has become "
        "smaller, or its batches larger. Train with the data and the batch size of the version, or resume from a version "
        "saved at the end of an epoch."
    )


def _generators(state: dict[str, Any], when: str) -> Mapping[str, torch.Tensor]:
    # Versions made before the generators were kept have none.
    states: Mapping[str, torch.Tensor] = state.get("generators", {}).get(when, {})
    return states
