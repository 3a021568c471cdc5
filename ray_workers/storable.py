"""Whether a model can be stored, and filled again: looked at when it is handed over, and not at the first save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import set_model_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from ray_workers.device_copy import check_device
from ray_workers.plain_names import (
    named_parameters,
    persistent_buffers,
    plain_state,
    without_copies,
)
from ray_workers.planners import check_placements, local_part
from ray_workers.store.errors import InvalidInputError

__all__ = ["check_model"]

_SHOWN = 5


def check_model(model: torch.nn.Module) -> None:
    """Return if a version of its parameters and persistent buffers can be made and restored.

    Raises:
        InvalidInputError: one of them has no shape yet, lies on a device that is not copied from, is distributed in a way
            that cannot be stored, or has fewer places in memory than items; or the model's state leaves it out, and the
            model does not load without it.
    """
    state = plain_state(model)
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor):
            _check(f"The model's {name}", tensor)
    left_out = sorted(_kept_names(model) - set(state))
    if left_out:
        _check_loads_without(model, state, left_out)


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


def _kept_names(model: torch.nn.Module) -> set[str]:
    """What torch's own `state_dict` names, but for extra state."""
    parameters = {name for name, _ in named_parameters(model, every_name=True)}
    return parameters | set(persistent_buffers(model))


def _check_loads_without(
    model: torch.nn.Module, state: Mapping[str, Any], left_out: Sequence[str]
) -> None:
    """Load what the model holds already, as a resume would: a hook may rename what it leaves out, or do without it."""
    try:
        set_model_state_dict(model, without_copies(model, state))
    except RuntimeError as error:
        shown = ", ".join(left_out[:_SHOWN])
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        raise InvalidInputError(
            f"The model's state_dict() leaves out {shown}{more}, and its load_state_dict() asks for it: the model could be "
            "saved and never be restored. Leave it in; or, if your code gives it its values at each start, keep it outside "
            "the model, or take it out of `missing_keys` with register_load_state_dict_post_hook."
        ) from error


def _is_expanded(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and any(
        stride == 0 and length > 1
        for stride, length in zip(tensor.stride(), tensor.shape, strict=True)
    )
