"""What training must get back: model, optimizers, schedulers, and whatever else has a `state_dict`.

`capture` names the live state without copying a tensor; `restore` puts a version's state into fresh objects. The model
may be plain, DDP or FSDP2, and need not be wrapped as it was when the version was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import torch
from torch.distributed.checkpoint.state_dict import set_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from ray_workers.memory_spans import sharing_memory
from ray_workers.optimizer_state import (
    capture_optimizer,
    check_optimizer,
    empty_state,
    load_optimizer,
)
from ray_workers.plain_names import named_parameters, own_tensors, plain_state, without_copies
from ray_workers.planners import SHARED_PREFIX, signature_of
from ray_workers.shard_reading import (
    ReadShard,
    check_fit,
    empty_tensor,
    load_tensors,
    stored_layouts,
    stored_signature,
)
from ray_workers.state_tree import escape, join, split
from ray_workers.storable import check_model
from ray_workers.store.errors import InvalidInputError, StateMismatchError
from ray_workers.store.layout import TensorLayout
from ray_workers.store.manifest import Manifest

__all__ = [
    "OneOrMany",
    "Stateful",
    "TrainingParts",
    "apply",
    "capture",
    "check_stateful",
    "frozen_paths",
    "restore",
    "restore_by",
    "steady_paths",
    "template",
]

_T = TypeVar("_T")

OneOrMany: TypeAlias = _T | Sequence[_T] | Mapping[str, _T] | None
"""One, several in a list or by name, or none."""


class Stateful(Protocol):
    """What schedulers, averages and a user's own objects offer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingParts:
    """The objects whose state all ranks share; what a rank has alone is not among them."""

    model: torch.nn.Module
    optimizer: OneOrMany[torch.optim.Optimizer] = None
    scheduler: OneOrMany[Stateful] = None
    extra: Mapping[str, Stateful] = field(default_factory=dict)
    own_groups: Mapping[str, int] = field(init=False)
    """How many parameter groups each optimizer had when it was handed over: the loop's, and not a version's."""

    def __post_init__(self) -> None:
        counts = {name: len(one.param_groups) for name, one in _named(self.optimizer).items()}
        object.__setattr__(self, "own_groups", counts)
        if any(isinstance(module, FullyShardedDataParallel) for module in self.model.modules()):
            raise InvalidInputError(
                "The model is wrapped in FullyShardedDataParallel (FSDP1), whose state cannot be stored without "
                "collectives: use torch.distributed.fsdp.fully_shard (FSDP2)."
            )
        check_model(self.model)
        # Now, and not when it is captured; what the states hold is looked at by `live_content.check_parts`.
        for kind, items in (("scheduler", _named(self.scheduler)), ("extra", dict(self.extra))):
            check_stateful(kind, items)


def check_stateful(kind: str, items: Mapping[str, Any]) -> None:
    """Raise `InvalidInputError` when one of `items` could not be stored or not come back."""
    for name, item in items.items():
        if not (hasattr(item, "state_dict") and hasattr(item, "load_state_dict")):
            raise InvalidInputError(
                f"{kind} {name!r} is a {type(item).__name__}, which has no state_dict and load_state_dict: it would "
                "not come back. Give it both, or keep what it holds in the config."
            )


def capture(parts: TrainingParts) -> dict[str, Any]:
    """The state as a tree for `state_tree.split`.

    `{"model": {name: tensor}, "optimizer": {name: …}, "scheduler": {name: …}, "extra": {name: …}}`; what has no name of
    its own is called "0", "1", …. Tensors are the live ones and change with the next step: copy them before it.

    Raises:
        InvalidInputError: an optimizer holds what cannot be named or restored.
    """
    return {
        "model": plain_state(parts.model),
        "optimizer": {
            name: capture_optimizer(parts.model, optimizer)
            for name, optimizer in _named(parts.optimizer).items()
        },
        "scheduler": _states(_named(parts.scheduler)),
        "extra": _states(parts.extra),
    }


def steady_paths(
    parts: TrainingParts, paths: Iterable[str], *, prefix: str = SHARED_PREFIX
) -> frozenset[str]:
    """Those of `paths` that only a step of one of the optimizers changes.

    They are the parameters that an optimizer holds, and what it keeps for each of them; not buffers, not learning
    rates, not parameters that no optimizer was handed over for, nothing of a scheduler or of `extra`.
    """
    steppable = {
        name: optimizer
        for name, optimizer in _named(parts.optimizer).items()
        # Only a step that torch has wrapped announces itself to the hooks.
        if getattr(type(optimizer).step, "hooked", False)
    }
    held = {
        id(parameter)
        for optimizer in steppable.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    steady = {
        f"{prefix}/model/{escape(name)}"
        for name, parameter in named_parameters(parts.model, every_name=True)
        if id(parameter) in held
    }
    kept = tuple(f"{prefix}/optimizer/{escape(name)}/state/" for name in steppable)
    return frozenset(path for path in paths if path in steady or path.startswith(kept))


def frozen_paths(
    parts: TrainingParts, paths: Iterable[str], *, prefix: str = SHARED_PREFIX
) -> frozenset[str]:
    """Those of `paths` that are parameters which are not trained."""
    frozen = {
        f"{prefix}/model/{escape(name)}"
        for name, parameter in named_parameters(parts.model, every_name=True)
        if not parameter.requires_grad
    }
    return frozenset(frozen.intersection(paths))


def _named(items: OneOrMany[_T]) -> dict[str, _T]:
    if items is None:
        return {}
    if isinstance(items, Mapping):
        return dict(items)
    if isinstance(items, list | tuple):
        return {str(index): item for index, item in enumerate(items)}
    return {"0": cast("_T", items)}


def _states(items: Mapping[str, Stateful]) -> dict[str, Any]:
    return {name: item.state_dict() for name, item in items.items()}


def template(
    parts: TrainingParts, manifest: Manifest, *, prefix: str = SHARED_PREFIX
) -> dict[str, torch.Tensor]:
    """A tensor by path for all that is stored below `prefix`, for `load_tensors`; none is filled.

    The model's parameters and buffers are its own. Optimizer state that is not there yet gets memory on its parameter's
    device, sharded like it. The rest, a model's extra state too, are the objects' own tensors where they fit and share
    memory with nothing, else new ones.

    Raises:
        StateMismatchError: the stored model is not this model.
    """
    tree = capture(parts)
    live = split(tree, prefix=prefix).tensors
    owners = dict(_state_owners(parts, prefix))
    model = f"{prefix}/model"
    loose = _loose_paths(parts.model, tree["model"], model)
    own = {path: live[path] for path in live if path.startswith(f"{model}/") and not loose(path)}
    firm = {path: layout for path, layout in manifest.tensors.items() if not loose(path)}
    check_fit(own, replace(manifest, tensors=firm), prefix=model)
    # A fresh object may hold one tensor for what were two when it was saved.
    shared = set(chain.from_iterable(sharing_memory(live)))
    rest = {
        path: _place(path, layout, live.get(path), owners, shared=path in shared)
        for path, layout in stored_layouts(manifest, prefix).items()
        if path not in own
    }
    return own | rest


def _loose_paths(
    model: torch.nn.Module, state: Iterable[str], prefix: str
) -> Callable[[str], bool]:
    """Tells paths of what a model's state holds beside parameters and buffers (`get_extra_state`): it may change its size."""
    own = own_tensors(model)
    below = tuple(f"{prefix}/{escape(name)}/" for name in state if name not in own)
    return lambda path: f"{path}/".startswith(below)


def _state_owners(parts: TrainingParts, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Path of a parameter's optimizer state -> the parameter."""
    for place in _named(parts.optimizer):
        for name, parameter in named_parameters(parts.model):
            yield f"{prefix}/optimizer/{escape(place)}/state/{escape(name)}", parameter


def _place(
    path: str,
    layout: TensorLayout,
    live: torch.Tensor | None,
    owners: Mapping[str, torch.Tensor],
    *,
    shared: bool,
) -> torch.Tensor:
    if live is not None and signature_of(live) == stored_signature(layout):
        # An expanded tensor has fewer places than items, so it cannot be written to.
        fillable = isinstance(live, DTensor) or live.is_contiguous()
        return live if fillable and not shared else torch.empty_like(live)
    parent, _, key = path.rpartition("/")
    if parent in owners:
        return empty_state(owners[parent], key, layout)
    return empty_tensor(layout)


def restore(
    parts: TrainingParts,
    manifest: Manifest,
    read_shard: ReadShard,
    *,
    prefix: str = SHARED_PREFIX,
) -> dict[str, Any]:
    """Put a version's shared state into `parts`, bit for bit, whatever their world size and sharding.

    Returns:
        The whole stored tree; what stands beside the four parts is for the caller.

    Raises:
        StateMismatchError: the state does not fit these parts. Nothing was changed.
        DamageError: a shard or the manifest is damaged. Nothing was changed.
    """

    def load(tensors: dict[str, torch.Tensor]) -> None:
        load_tensors(tensors, manifest, read_shard, prefix=prefix)

    return restore_by(parts, manifest, load, prefix=prefix)


def restore_by(
    parts: TrainingParts,
    manifest: Manifest,
    load: Callable[[dict[str, torch.Tensor]], None],
    *,
    prefix: str = SHARED_PREFIX,
) -> dict[str, Any]:
    """As `restore`; `load` fills the tensors it is given, by path, and what it raises is raised."""
    tensors = template(parts, manifest, prefix=prefix)
    # Joined before the tensors are filled, only to see whether the plain state fits; and again after, for real.
    _check(parts, join(manifest.plain, tensors))
    load(tensors)
    tree: dict[str, Any] = join(manifest.plain, tensors)
    apply(parts, tree)
    return tree


def apply(parts: TrainingParts, tree: Mapping[str, Any]) -> None:
    """Load a tree that `capture` made. Raises `StateMismatchError` before anything is changed."""
    _check(parts, tree)
    if tree["model"]:
        set_model_state_dict(parts.model, without_copies(parts.model, tree["model"]))
    for name, optimizer in _named(parts.optimizer).items():
        stored = tree["optimizer"][name]
        load_optimizer(parts.model, optimizer, stored, own_groups=parts.own_groups[name])
    for name, scheduler in _named(parts.scheduler).items():
        scheduler.load_state_dict(tree["scheduler"][name])
    for name, item in parts.extra.items():
        item.load_state_dict(tree["extra"][name])


def _check(parts: TrainingParts, tree: Any) -> None:
    here: dict[str, Mapping[str, Any]] = {
        "model": plain_state(parts.model),
        "optimizer": _named(parts.optimizer),
        "scheduler": _named(parts.scheduler),
        "extra": parts.extra,
    }
    for kind, items in here.items():
        stored = tree.get(kind) if isinstance(tree, Mapping) else None
        if not isinstance(stored, Mapping):
            raise StateMismatchError(
                f"The version holds no {kind} state: it was not made by a session."
            )
        if set(stored) != set(items):
            raise StateMismatchError(
                f"The stored {kind} state does not fit: {_names(stored)} stored, {_names(items)} here. Hand over the "
                "same objects under the same names, or start another run."
            )
    for name, optimizer in _named(parts.optimizer).items():
        stored = tree["optimizer"][name]
        check_optimizer(parts.model, optimizer, stored, own_groups=parts.own_groups[name])


def _names(items: Iterable[str]) -> str:
    return ", ".join(sorted(items)[:10]) or "nothing"
