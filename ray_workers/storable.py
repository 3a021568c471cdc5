"""Whether a model can be stored, and filled again: looked at when it is handed over, and not at the first save."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from ray_workers.device_copy import check_device
from ray_workers.plain_names import plain_state
from ray_workers.planners import check_placements, local_part
from ray_workers.store.errors import InvalidInputError

__all__ = ["check_model"]


def check_model(model: torch.nn.Module) -> None:
    """Return if a version of its parameters and persistent buffers can be made and restored.

    Raises:
        InvalidInputError: one of them has no shape yet, lies on a device that is not copied from, is distributed in a way
            that cannot be stored, or has fewer places in memory than items.
    """
    for name, tensor in plain_state(model).items():
        if isinstance(tensor, torch.Tensor):
            _check(f"The model's {name}", tensor)


def _check(what: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        raise InvalidInputError(
            f"{what} is lazy and has no shape before the first forward pass: pass one batch through the model before the "
            "session is opened, and before the optimizer is made."
        )
    check_device(what, tensor)
    if isinstance(tensor, DTensor):
        check_placements(what, tensor)
    if _is_expanded(local_part(tensor)):
        raise InvalidInputError(
            f"{what} is an expanded tensor, in which several items are one place in memory: it could be saved and never be "
            "restored. Register it with .clone()."
        )


def _is_expanded(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and any(
        stride == 0 and length > 1
        for stride, length in zip(tensor.stride(), tensor.shape, strict=True)
    )
