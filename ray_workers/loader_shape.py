"""What a place in the middle of an epoch depends on: how long the epoch is, and how many samples make a batch.

Kept with the place. Counted in other batches it would be another sample, and nobody would see that some are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_workers.store.errors import StateMismatchError

__all__ = ["check_global_batch", "check_shape", "shape_of"]

_NAMES = {
    "samples": "number of samples in the data set",
    "batch_size": "batch size",
    "batches": "number of batches in an epoch",
}
_ADVICE = (
    "Train with the data set and the batch size of the version; or resume from a version saved at the end of an epoch, "
    "where both may change (`pawl versions RUN`, then `--resume RUN@N`)."
)


def shape_of(loader: Any | None) -> dict[str, int]:
    """What the loader tells of it, ahead of its iterator: some have no length, or batches of no one size."""
    batches = getattr(loader, "batch_sampler", None)
    known = {
        "samples": _length(getattr(loader, "dataset", None)),
        "batch_size": getattr(loader, "batch_size", None) or getattr(batches, "batch_size", None),
        "batches": _length(loader),
    }
    return {name: value for name, value in known.items() if isinstance(value, int)}


def check_shape(stored: Mapping[str, int], here: Mapping[str, int]) -> None:
    """Return if a place kept with `stored` is the same one under `here`; what only one of them tells is no difference.

    Raises:
        StateMismatchError: it is not; the sentence says both numbers.
    """
    changed = [
        f"the {what} was {stored[name]} and is {here[name]}"
        for name, what in _NAMES.items()
        if name in stored and name in here and stored[name] != here[name]
    ]
    if changed:
        raise StateMismatchError(
            f"The version was saved in the middle of an epoch, and {', '.join(changed)}: the place in the epoch would be "
            f"at other samples. {_ADVICE}"
        )


def check_global_batch(batches: int, samples: int | None, global_batch: int) -> None:
    """Return if `batches` of `global_batch` samples, over all ranks, are the `samples` that the version had taken.

    Raises:
        StateMismatchError: they are not.
    """
    if samples is None or samples == batches * global_batch:
        return
    raise StateMismatchError(
        f"The version was saved in the middle of an epoch, after {batches} global batches of {samples / batches:g} samples, "
        f"and the global batch is {global_batch} here: the place in the epoch would be at other samples. {_ADVICE}"
    )


def _length(of: Any | None) -> int | None:
    try:
        return None if of is None else len(of)
    except (TypeError, NotImplementedError):
        return None
