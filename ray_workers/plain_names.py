"""Names of parameters and buffers as the model's own code gives them, whatever it is wrapped in.

They are the names of torch.distributed.checkpoint.state_dict, whose functions take twenty times as long: too long for
every save, while training waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "named_parameters",
    "own_tensors",
    "persistent_buffers",
    "plain_name",
    "plain_state",
    "without_copies",
]

_DDP = "module"
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module"}
"""What torch.compile and activation checkpointing put between a module and its parameters."""


def plain_name(model: torch.nn.Module, name: str) -> str:
    """`name`, a key of `model.state_dict()`, without the segments that DDP and other wrappers add."""
    segments = name.split(".")
    if _DDP not in segments and _WRAPPERS.isdisjoint(segments):
        return name
    plain = []
    module: Any = model
    for segment in segments:
        added = segment == _DDP and isinstance(module, DistributedDataParallel)
        if not added and segment not in _WRAPPERS:
            plain.append(segment)
        module = getattr(module, segment, None)
    return ".".join(plain)


def named_parameters(
    model: torch.nn.Module, *, every_name: bool = False
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Each parameter once, a shared one by the first of its names; or under each of its names."""
    for name, parameter in model.named_parameters(remove_duplicate=not every_name):
        yield plain_name(model, name), parameter


def plain_state(model: torch.nn.Module) -> dict[str, Any]:
    """The model's live state by plain name; nothing is copied, and no other rank is asked."""
    return {plain_name(model, name): value for name, value in model.state_dict().items()}


def own_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, persistent or not, under each of its plain names."""
    named = chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    return {plain_name(model, name): tensor for name, tensor in named}


def persistent_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that torch's own `state_dict` holds, under each of their plain names."""
    return {
        plain_name(model, f"{path}.{name}" if path else name): buffer
        for path, module in model.named_modules(remove_duplicate=False)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if name not in module._non_persistent_buffers_set  # noqa: SLF001 - torch has no other way to ask
    }


def without_copies(model: torch.nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """`state`, by plain name, with the model's own objects for tensors that are the model's own memory already.

    torch copies a tensor onto itself at once, but one that shares its memory byte by byte.
    """
    live = own_tensors(model)
    return {
        name: live[name] if _is_same(live.get(name), value) else value
        for name, value in state.items()
    }


def _is_same(live: torch.Tensor | None, other: Any) -> bool:
    if live is None or not isinstance(other, torch.Tensor):
        return False
    distributed = [isinstance(tensor, DTensor) for tensor in (live, other)]
    if any(distributed):
        return all(distributed) and live.to_local().is_set_to(other.to_local())  # type: ignore[attr-defined]
    return live.dtype == other.dtype and live.is_set_to(other)
