"""Whether training can go on at the same sample after a resume in mid-epoch: seen from the loader, and said at the start.

A crash is a bad moment to learn that the order of the data cannot be had again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch.utils.data

from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.store.errors import InvalidInputError

__all__ = ["Finding", "announce_loader", "look_at_loader"]

_log = logging.getLogger("pawl")

_EXACT = "Use torchdata's StatefulDataLoader"
_DRAWN = (
    torch.utils.data.RandomSampler,
    torch.utils.data.SubsetRandomSampler,
    torch.utils.data.WeightedRandomSampler,
)


@dataclass(frozen=True, slots=True)
class Finding:
    level: Literal["replayed", "inexact", "lost"]
    """`replayed`: exact, by taking and dropping the batches already seen. `inexact`: other samples after a resume in
    mid-epoch, or nobody can tell. `lost`: there is no place in mid-epoch that could be come back to."""
    sentence: str


def look_at_loader(loader: Any | None) -> Finding | None:
    """What a resume in the middle of an epoch does to the order of samples; None: nothing, it goes on exactly."""
    if loader is None:
        return None
    name = type(loader).__name__
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        return _order(loader, f"The loader ({name}) keeps its position")
    if type(loader).__module__.startswith("ray.data"):
        return Finding(
            "lost",
            "The loader reads a Ray Data shard, which gives no position and promises no order: a version saved in the "
            "middle of an epoch cannot continue with the same samples.",
        )
    if hasattr(loader, "__next__"):
        return Finding(
            "lost",
            f"The loader ({name}) is an iterator, which begins only once: neither a second epoch nor a place in the middle "
            f"of one can be come back to. Give what makes the iterator. {_EXACT} for an exact position.",
        )
    return _order(loader, "Positions") or Finding(
        "replayed",
        f"The loader ({name}) has no state_dict: after a resume in mid-epoch the batches already seen are taken and "
        f"dropped, which costs their loading. {_EXACT} to avoid that.",
    )


def _order(loader: Any, what: str) -> Finding | None:
    """None if the order of an epoch is the same every time, as far as the sampler shows."""
    sampler = _sampler(loader)
    if sampler is None or _knows_its_order(sampler):
        return None
    name = type(sampler).__name__
    if isinstance(sampler, _DRAWN):
        why = f"and {name} draws another order when the epoch is entered again"
    else:
        why = f"and {name} has neither set_epoch nor state_dict, so its order may be another one"
    return Finding(
        "inexact",
        f"{what} are kept by count, {why}: a resume in the middle of an epoch is not exact. Use a sampler with set_epoch "
        "(DistributedSampler, ray_workers.sampling.GlobalBatches), StatefulDataLoader with shuffle=True, or save at the "
        "end of epochs only.",
    )


def _sampler(loader: Any) -> Any | None:
    if isinstance(getattr(loader, "dataset", None), torch.utils.data.IterableDataset):
        return None  # the data set itself decides on the order
    batches = getattr(loader, "batch_sampler", None)
    if batches is not None and _knows_its_order(batches, by_itself=True):
        return batches
    inner = getattr(batches, "sampler", None) or getattr(loader, "sampler", None) or batches
    return inner if isinstance(inner, torch.utils.data.Sampler) else None


def _knows_its_order(sampler: Any, *, by_itself: bool = False) -> bool:
    if hasattr(sampler, "set_epoch"):
        return True
    if by_itself:
        return False
    stateful = hasattr(sampler, "state_dict") or _is_torchdatas(sampler)
    return stateful or isinstance(sampler, torch.utils.data.SequentialSampler)


def _is_torchdatas(sampler: Any) -> bool:
    # Its state lives in the sampler's iterator.
    return type(sampler).__module__.startswith("torchdata.")


def announce_loader(loader: Any | None, thresholds: SaveThresholds, *, rank: int) -> None:
    """Say at the start what will not be exact.

    Raises:
        InvalidInputError: saves in mid-epoch are asked for, and there is no place that they could continue from.
    """
    finding = look_at_loader(loader)
    if finding is None:
        return
    inside = thresholds.every_steps is not None or thresholds.every_seconds is not None
    if finding.level == "lost" and inside:
        raise InvalidInputError(
            f"{finding.sentence} Save at the end of epochs only (every_steps and every_seconds empty), or give the loader "
            "state_dict and load_state_dict."
        )
    if rank == 0:
        _log.log(logging.INFO if finding.level == "replayed" else logging.WARNING, finding.sentence)
