"""The random generators that a loader owns: they go on from epoch to epoch, so a fresh loader must be given their states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ray_workers.store.errors import StateMismatchError

__all__ = ["capture", "find", "restore"]


def find(loader: Any | None) -> dict[str, torch.Generator]:
    """Generators by the object that holds them; one that several hold stands under the first."""
    batches = getattr(loader, "batch_sampler", None)
    owners = {
        "loader": loader,
        "sampler": getattr(loader, "sampler", None),
        "batch_sampler": batches,
        "batch_sampler.sampler": getattr(batches, "sampler", None),
        "dataset": getattr(loader, "dataset", None),
    }
    found: dict[str, torch.Generator] = {}
    for place, owner in owners.items():
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and generator not in found.values():
            found[place] = generator
    return found


def capture(loader: Any | None) -> dict[str, torch.Tensor]:
    """The states now; draws nothing."""
    return {place: generator.get_state() for place, generator in find(loader).items()}


def restore(loader: Any | None, states: Mapping[str, torch.Tensor]) -> None:
    """Put those generators that `states` knows back to where `capture` found them.

    Raises:
        StateMismatchError: a generator is of another kind than the one that was saved.
    """
    for place, generator in find(loader).items():
        if place not in states:
            continue
        try:
            generator.set_state(states[place])
        except (RuntimeError, TypeError) as error:
            raise StateMismatchError(
                f"The stored state of the {place}'s random generator does not fit the one here, on {generator.device} "
                f"({error}): use the loader as it was."
            ) from None
