"""An optimizer's state by parameter name, so that it fits another world size and another order of parameters.

torch.distributed.checkpoint.state_dict spells it the same way, but its optimizer functions are not used: on an
optimizer without state (before its first step; plain SGD for ever) they take a step with zeroed gradients to make some,
which clears gradients, fires step hooks and leaves Adam at step 1; and they do not load a parameter that never had a
gradient.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ray_workers.plain_names import named_parameters
from ray_workers.store.errors import InvalidInputError, StateMismatchError
from ray_workers.store.layout import TensorLayout
from ray_workers.tensor_types import dtype_named, torch_shape

__all__ = [
    "capture_optimizer",
    "check_optimizer",
    "empty_state",
    "load_optimizer",
]

_log = logging.getLogger("pawl")


def _names_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """The names of the optimizer's parameters, by group, in its order."""
    names = {id(parameter): name for name, parameter in named_parameters(model)}
    groups = [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    if any(name is None for name in chain.from_iterable(groups)):
        raise InvalidInputError(
            "An optimizer holds a parameter that is not in the model: give the module that holds all of them "
            "(torch.nn.ModuleDict for several), or make the optimizer after wrapping the model."
        )
    return groups  # type: ignore[return-value] # None was refused


def capture_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`{"state": {name: …}, "param_groups": [{"params": [name, …], …}, …]}` of live tensors; changes nothing."""
    groups = _names_of(model, optimizer)
    names = list(chain.from_iterable(groups))
    parameters = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    raw = optimizer.state_dict()
    state = {}
    for index, entries in raw["state"].items():
        if type(index) is not int:
            raise InvalidInputError(
                f"{type(optimizer).__qualname__} keeps state under {index!r:.60}, which belongs to no parameter: "
                "keep it in an object of its own and hand that over as `extra`."
            )
        _refuse_foreign_shards(names[index], entries, parameters[index])
        state[names[index]] = entries
    return {
        "state": state,
        "param_groups": [
            {**group, "params": group_names}
            for group, group_names in zip(raw["param_groups"], groups, strict=True)
        ],
    }


def _refuse_foreign_shards(name: str, entries: dict[str, Any], parameter: torch.Tensor) -> None:
    """Sharded state is laid out anew from its parameter on load, so it must have its parameter's shape."""
    for key, value in entries.items():
        if isinstance(value, DTensor) and value.shape != parameter.shape:
            raise InvalidInputError(
                f"The optimizer keeps {key!r} of {name} as a sharded tensor of {list(value.shape)}, another shape than "
                "the parameter's: such state could not be restored. Use another optimizer, or DDP."
            )


def empty_state(parameter: torch.Tensor, key: str, layout: TensorLayout) -> torch.Tensor:
    """Memory for one stored state tensor of `parameter`, on its device and sharded like it if it has its shape."""
    dtype = dtype_named(layout.dtype)
    shape = torch_shape(dtype, layout.shape)
    # Counters live on the CPU, and `load_state_dict` moves them where they must not.
    if shape == tuple(parameter.shape) and key != "step":
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    return torch.empty(shape, dtype=dtype)


def check_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tree: Any, *, own_groups: int
) -> None:
    """Return if `tree` has this optimizer's parameters, in its groups and order, and behind them at most such as can be added.

    Args:
        model: whose parameters it holds.
        optimizer: to be filled; not changed here.
        tree: what `capture_optimizer` made.
        own_groups: how many of its groups its loop made; those behind them came with a version.

    Raises:
        StateMismatchError: the groups differ.
    """
    here = _names_of(model, optimizer)[:own_groups]
    stored = [group["params"] for group in tree["param_groups"]]
    if here != stored and not _can_add(model, here, stored):
        known, found = set(chain.from_iterable(here)), set(chain.from_iterable(stored))
        differing = (
            sorted(known ^ found)[:5] or "the same parameters in other groups or another order"
        )
        raise StateMismatchError(
            f"The stored {type(optimizer).__qualname__} state does not fit: {len(stored)} parameter groups are stored, "
            f"{len(here)} are here; differing: {differing}. Use the code that made the version, or start another run."
        )


def _can_add(model: torch.nn.Module, here: list[list[str]], stored: list[list[str]]) -> bool:
    """Whether `stored` is what `here` becomes by adding groups of other parameters of the model, as gradual unfreezing does."""
    names = list(chain.from_iterable(stored))
    known = {name for name, _ in named_parameters(model)}
    return stored[: len(here)] == here and known.issuperset(names) and len(set(names)) == len(names)


def _set_groups(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, stored: Any, *, own_groups: int
) -> None:
    """Leave the groups that came with another version, and add those that came with this one."""
    if _names_of(model, optimizer) == [group["params"] for group in stored]:
        return
    del optimizer.param_groups[own_groups:]
    parameters = dict(named_parameters(model))
    for group in stored[own_groups:]:
        members = [parameters[name] for name in group["params"]]
        optimizer.add_param_group({**group, "params": members})
        still = [name for name in group["params"] if not parameters[name].requires_grad]
        if still:
            _log.warning(
                "%s of the group that the loop added to its %s before this version was made needs no gradient now, and would "
                "not be trained: set requires_grad again after the session is opened, by its step or epoch.",
                f"{still[0]}{f' and {len(still) - 1} more' if len(still) > 1 else ''}",
                type(optimizer).__qualname__,
            )


def load_optimizer(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    tree: dict[str, Any],
    *,
    own_groups: int,
) -> None:
    """Give the optimizer exactly the state in `tree`, whose tensors it keeps. Args and errors as of `check_optimizer`."""
    check_optimizer(model, optimizer, tree, own_groups=own_groups)
    _set_groups(model, optimizer, tree["param_groups"], own_groups=own_groups)
    names = list(chain.from_iterable(_names_of(model, optimizer)))
    index = {name: position for position, name in enumerate(names)}
    optimizer.load_state_dict(
        {
            "state": {index[name]: entries for name, entries in tree["state"].items()},
            "param_groups": [
                {**group, "params": [index[name] for name in group["params"]]}
                for group in tree["param_groups"]
            ],
        }
    )
    for name, parameter in named_parameters(model):
        if name in tree["state"]:
            state = optimizer.state
            state[parameter] = _as_stored(state[parameter], tree["state"][name])


def _as_stored(loaded: Any, stored: Any) -> Any:
    """`load_state_dict` converts state to its parameter's type: float32 state of bfloat16 would lose bits."""
    if isinstance(stored, torch.Tensor):
        return loaded if loaded.dtype == stored.dtype else stored.to(loaded.device)
    if isinstance(stored, dict):
        return {key: _as_stored(loaded[key], value) for key, value in stored.items()}
    if isinstance(stored, list | tuple):
        return type(stored)(map(_as_stored, loaded, stored))
    return stored
