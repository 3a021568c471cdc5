"""Whether training can go on at the same sample after a resume: seen from the loader, and said at the start.

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
    level: Literal["replayed", "carrying", "hidden", "inexact", "lost"]
    """`replayed`: exact, by taking and dropping the batches already seen. `carrying`: exact unless something that has a
    state of its own carries it over the end of an epoch. `hidden`: exact unless worker processes hold what nobody sees,
    as the numbers that they draw. `inexact`: other samples after a resume in mid-epoch, or nobody
    can tell. `lost`: there is no place in mid-epoch that could be come back to."""
    sentence: str


def look_at_loader(loader: Any | None) -> Finding | None:
    """What a resume does to the order of samples; None: nothing, it goes on exactly."""
    if loader is None:
        return None
    name = type(loader).__name__
    if _keeps_its_position(loader):
        return _first(_order(loader), _hidden(loader), _carried(loader))
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
    found = _first(_order(loader), _hidden(loader), _carried(loader))
    return found or Finding(
        "replayed",
        f"The loader ({name}) has no state_dict: after a resume in mid-epoch the batches already seen are taken and "
        f"dropped, which costs their loading. {_EXACT} to avoid that.",
    )


def _keeps_its_position(loader: Any) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _first(*findings: Finding | None) -> Finding | None:
    """The gravest one, which stands first, with what the others say."""
    found = [finding for finding in findings if finding is not None]
    if not found:
        return None
    return Finding(found[0].level, " ".join(finding.sentence for finding in found))


def _order(loader: Any) -> Finding | None:
    """None if the order of an epoch can be had again, as far as the sampler shows."""
    sampler = _sampler(loader)
    if sampler is None or _knows_its_order(sampler) or _draws_it_again(sampler, loader):
        return None
    kept = f"The loader ({type(loader).__name__}) keeps its position"
    what = kept if _keeps_its_position(loader) else "Positions"
    name = type(sampler).__name__
    if isinstance(sampler, _DRAWN):
        why = (
            f"under workers that persist {name} draws another order when the epoch is entered again: a resume in the middle "
            "of an epoch is not exact"
        )
        way = "shuffle=True, or give the sampler a generator of its own (generator=torch.Generator())."
    else:
        why = (
            f"{name} has neither set_epoch nor state_dict, so its order may be another one: a resume may not be exact, at "
            "the end of an epoch neither"
        )
        way = "shuffle=True."
    return Finding(
        "inexact",
        f"{what} are kept by count, and {why}. Use a sampler with set_epoch (DistributedSampler, "
        f"ray_workers.sampling.GlobalBatches) or StatefulDataLoader with {way}",
    )


def _carried(loader: Any) -> Finding | None:
    """What has a state besides its place in an epoch, which is not asked for at an epoch's end."""
    own = not isinstance(loader, torch.utils.data.DataLoader)
    carriers = [loader] if own else [_sampler(loader), getattr(loader, "dataset", None)]
    names = [
        type(c).__name__
        for c in carriers
        if hasattr(c, "state_dict") and not hasattr(c, "set_epoch")
    ]
    if not names:
        return None
    return Finding(
        "carrying",
        f"{' and '.join(names)} has a state_dict and no set_epoch. Its state is kept in mid-epoch, by a loader with a "
        "state_dict, and not at the end of an epoch: what it carries over that end, as a count of epochs, does not come back "
        "unless set_epoch brings it.",
    )


def _hidden(loader: Any) -> Finding | None:
    """What worker processes hold, when a resume does not bring them to where they were."""
    workers = getattr(loader, "num_workers", 0)
    persist = getattr(loader, "persistent_workers", False)
    if not workers or not (persist or _skips_in_workers(loader)):
        return None
    if persist:
        why = (
            "live on from epoch to epoch, and a resume starts new ones. So random numbers that the data set draws in them "
            "(augmentation) are other ones after a resume, and an epoch told by set_epoch does not reach them unless it is "
            "shared with them"
        )
        way = "persistent_workers=False"
    else:
        why = (
            "do not load again what came before the place of a resume. So random numbers that the data set draws in them "
            "(augmentation) are other ones after a resume in mid-epoch, until the epoch ends"
        )
        way = "a DataLoader without a state_dict"
    return Finding(
        "hidden",
        f"The {workers} worker processes of the loader ({type(loader).__name__}) {why}. If it draws any, derive them from "
        f"(seed, epoch, index), or use {way}.",
    )


def _skips_in_workers(loader: Any) -> bool:
    """Whether it comes to a place without loading again what its workers had loaded."""
    dataset = getattr(loader, "dataset", None)
    stream = isinstance(dataset, torch.utils.data.IterableDataset)
    return _keeps_its_position(loader) and (not stream or hasattr(dataset, "state_dict"))


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


def _draws_it_again(sampler: Any, loader: Any) -> bool:
    """Whether the order hangs on nothing but a generator that is put back to where the epoch began: its own, or torch's."""
    if not isinstance(sampler, _DRAWN):
        return False
    # StatefulDataLoader makes its iterator anew to take up a position, and draws a seed for it ahead of the order, as it
    # did in its first epoch; where workers persist, later epochs draw none.
    seeds_anew = _keeps_its_position(loader) and getattr(loader, "persistent_workers", False)
    return not (
        seeds_anew and getattr(sampler, "generator", None) is getattr(loader, "generator", None)
    )


def _is_torchdatas(sampler: Any) -> bool:
    # Its state lives in the sampler's iterator.
    return type(sampler).__module__.startswith("torchdata.")


def announce_loader(
    loader: Any | None, thresholds: SaveThresholds, *, rank: int, paced: bool = False
) -> None:
    """Say at the start what will not be exact.

    Args:
        loader: what the session iterates.
        thresholds: when to save.
        rank: rank 0 says it for all.
        paced: the interval between saves is chosen (`interval = 'auto'`), beside the thresholds.

    Raises:
        InvalidInputError: saves in mid-epoch are asked for, and there is no place that they could continue from.
    """
    finding = look_at_loader(loader)
    if finding is None:
        return
    inside = thresholds.every_steps is not None or thresholds.every_seconds is not None or paced
    if finding.level == "lost" and inside:
        raise InvalidInputError(
            f"{finding.sentence} Save at the end of epochs only (interval = 'fixed', every_steps and every_seconds empty), "
            "or give the loader state_dict and load_state_dict."
        )
    if rank == 0:
        quiet = finding.level in ("replayed", "carrying")
        _log.log(logging.INFO if quiet else logging.WARNING, finding.sentence)
