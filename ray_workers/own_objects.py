"""What a rank has alone beside its random state and its place in the data: buffers that no one keeps alike, and `own` objects.

Every rank's BatchNorm sees batches of its own. DDP gives all of them rank 0's statistics before each forward pass, unless
it has `broadcast_buffers=False`; FSDP2 never does. Such buffers stand in a version as rank 0's among what all ranks share,
for whoever loads the weights, and once more with each of the other ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ray_workers.plain_names import persistent_buffers
from ray_workers.planners import signature_of
from ray_workers.store.errors import StateMismatchError
from ray_workers.training_state import Stateful

__all__ = ["capture_own", "local_buffers", "restore_own"]

_BUFFERS = "buffers"
_OBJECTS = "own"


def local_buffers(model: torch.nn.Module, stored: Iterable[str]) -> dict[str, torch.Tensor]:
    """The buffers among `stored`, names of the model's state, that may differ from rank to rank."""
    alike = {
        id(buffer)
        for module in model.modules()
        if isinstance(module, DistributedDataParallel) and module.broadcast_buffers
        for buffer in module.buffers()
    }
    buffers = persistent_buffers(model)
    return {
        name: buffers[name]
        for name in stored
        if name in buffers
        and id(buffers[name]) not in alike
        and not isinstance(buffers[name], DTensor)
    }


def capture_own(
    model: torch.nn.Module | None,
    stored: Iterable[str],
    objects: Mapping[str, Stateful],
    *,
    rank: int,
) -> dict[str, Any]:
    """The state as a part of a tree for `state_tree.split`; empty when there is nothing. Tensors are the live ones."""
    states = {name: item.state_dict() for name, item in objects.items()}
    # Rank 0's buffers are those that stand among the shared state.
    buffers = local_buffers(model, stored) if model is not None and rank > 0 else {}
    both = {_BUFFERS: buffers, _OBJECTS: states}
    return {kind: found for kind, found in both.items() if found}


def restore_own(
    model: torch.nn.Module | None, objects: Mapping[str, Stateful], tree: Mapping[str, Any]
) -> None:
    """Load what `capture_own` put into this rank's stored `tree`, after the shared state was restored.

    A version that was made before it was kept has no such buffers: rank 0's stay then.

    Raises:
        StateMismatchError: the stored objects are not these, or a buffer has another type or shape. Of the objects none was
            changed.
    """
    states = tree.get(_OBJECTS, {})
    if set(states) != set(objects):
        raise StateMismatchError(
            f"The rank's own state does not fit: {_names(states)} stored, {_names(objects)} here. Hand over the same objects "
            "under the same names as `own`, or start another run."
        )
    buffers = tree.get(_BUFFERS, {})
    if model is not None and buffers:
        _fill(local_buffers(model, buffers), buffers)
    for name, item in objects.items():
        item.load_state_dict(states[name])


def _fill(live: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in live.items():
            if signature_of(buffer) != signature_of(stored[name]):
                raise StateMismatchError(
                    f"The buffer {name} of this rank was stored with another type or shape than it has here."
                )
            buffer.copy_(stored[name])


def _names(items: Iterable[str]) -> str:
    return ", ".join(sorted(items)[:10]) or "nothing"
