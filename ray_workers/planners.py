"""Planners for torch.distributed.checkpoint that pickle nothing, ask no other rank, and give each tensor one owner.

Who writes what follows from the path and the tensor alone, so ranks agree without a word:

    rank/<r>/…                  rank r, and it alone
    a DTensor                   each rank its local part, if its coordinate is 0 on every mesh axis that replicates
    any other tensor            rank 0; the others hold the same values

DCP's own planners keep one copy per key from any rank, which would mix the ranks' random states, and pickle whatever
is no tensor; here such a value is an error, for `state_tree` has taken it out before.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    create_default_global_save_plan,
    create_default_local_save_plan,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    WriteItem,
    WriteItemType,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from typing_extensions import override

from ray_workers.store.errors import InvalidInputError, StateMismatchError

__all__ = [
    "SHARED_PREFIX",
    "PawlLoadPlanner",
    "PawlSavePlanner",
    "Signature",
    "check_placements",
    "describe_mismatch",
    "is_owner",
    "local_part",
    "rank_prefix",
    "signature_of",
]

SHARED_PREFIX = "shared"
"""Paths of state that all ranks share begin so."""

_RANK_PREFIX = "rank/"
_SHOWN = 5

Signature = tuple[torch.dtype, tuple[int, ...]]
"""Type and whole shape of a tensor."""


def rank_prefix(rank: int) -> str:
    """Paths of state that only `rank` has begin so."""
    return f"{_RANK_PREFIX}{rank}"


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The memory behind a tensor on this rank."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def check_placements(what: str, tensor: DTensor) -> None:
    """Raise `InvalidInputError` when it is distributed in a way that cannot be stored."""
    unknown = [one for one in tensor.placements if not isinstance(one, Replicate | Shard)]
    if not unknown:
        return
    if any("StridedShard" in type(placement).__name__ for placement in unknown):
        why = "FSDP2 with tensor parallel on the same dimension is not supported. Shard that dimension by one of the two"
    else:
        why = "only Shard and Replicate can be stored. Reduce it first"
    raise InvalidInputError(f"{what} is distributed as {tensor.placements}: {why}.")


def is_owner(path: str, tensor: torch.Tensor, rank: int) -> bool:
    """True when `rank`, which must be this process, writes its part of `tensor`.

    Raises:
        InvalidInputError: the path is another rank's, or the tensor is distributed in a way that cannot be stored.
    """
    if path.startswith(_RANK_PREFIX):
        if not path.startswith(f"{rank_prefix(rank)}/"):
            raise InvalidInputError(f"Rank {rank} cannot store {path}: it belongs to another rank.")
        return True
    if not isinstance(tensor, DTensor):
        return rank == 0
    coordinate = tensor.device_mesh.get_coordinate()
    check_placements(f"The tensor {path}", tensor)
    if coordinate is None:
        return False
    replicas = zip(coordinate, tensor.placements, strict=True)
    return all(at == 0 for at, placement in replicas if isinstance(placement, Replicate))


class PawlSavePlanner(DefaultSavePlanner):
    """Plans one rank's shard of a flat dict path -> tensor. Calls no other rank.

    Args:
        rank: this process's rank in the training group.
    """

    def __init__(self, *, rank: int) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._rank = rank

    @override
    def create_local_plan(self) -> SavePlan:
        """The items that this rank owns; where they lie in the shard is not decided here."""
        for path, value in self.state_dict.items():
            if type(value) not in (torch.Tensor, torch.nn.Parameter, DTensor):
                raise InvalidInputError(
                    f"The value at {path} is of type {type(value).__qualname__}, no plain tensor or DTensor: "
                    "plain values go through `state_tree.split`; FSDP1 and tensor subclasses are not supported."
                )
        owned = {
            path: tensor
            for path, tensor in self.state_dict.items()
            if is_owner(path, tensor, self._rank)
        }
        items = create_default_local_save_plan(owned, self.is_coordinator).items
        self.plan = SavePlan([item for item in items if not _is_empty_part(item)])
        return self.plan

    @override
    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Nothing to remove: each tensor already has one owner."""
        self.global_plan, self.metadata = create_default_global_save_plan(all_plans)
        return self.global_plan, self.metadata

    @override
    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        """The live tensor. Raises `InvalidInputError` for a byte item, which would be a pickle."""
        if write_item.type is WriteItemType.BYTE_IO:
            raise _refused_bytes(write_item.index.fqn)
        return super().resolve_data(write_item)


def _is_empty_part(item: WriteItem) -> bool:
    # A rank beyond the last row of a sharded tensor has nothing to add; an empty plain tensor is kept by its name.
    data = item.tensor_data
    return item.type is WriteItemType.SHARD and data is not None and data.chunk.sizes.numel() == 0


class PawlLoadPlanner(DefaultLoadPlanner):
    """Plans the reads that fill a flat dict path -> tensor in place; whatever does not fit is found before a read."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    @override
    def create_local_plan(self) -> LoadPlan:
        """The reads that this rank's parts need, on any layout.

        Raises:
            StateMismatchError: the template's paths, types and shapes are not exactly those that are stored.
        """
        stored = _stored_signatures(self.metadata)
        problem = describe_mismatch(
            {path: signature_of(tensor) for path, tensor in self.state_dict.items()}, stored
        )
        if problem is not None:
            raise StateMismatchError(problem)
        return super().create_local_plan()

    @override
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Always refused: DCP would unpickle here."""
        raise _refused_bytes(read_item.dest_index.fqn)


def _stored_signatures(metadata: Metadata | None) -> dict[str, Signature]:
    found: dict[str, Signature] = {}
    for path, stored in (metadata.state_dict_metadata if metadata is not None else {}).items():
        if not isinstance(stored, TensorStorageMetadata):
            raise _refused_bytes(path)
        found[path] = stored.properties.dtype, tuple(stored.size)
    return found


def _refused_bytes(path: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path} is a byte item, which only pickle could write or read: it is refused."
    )


def signature_of(tensor: torch.Tensor) -> Signature:
    return tensor.dtype, tuple(tensor.shape)


def describe_mismatch(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> str | None:
    """How stored tensors differ from what the training code has, for a person; None when they do not."""
    groups = [
        ("missing in the version", [path for path in wanted if path not in stored]),
        ("not in the training code", [path for path in stored if path not in wanted]),
        (
            "different",
            [
                f"{path} (stored {_spell(stored[path])}, here {_spell(wanted[path])})"
                for path in wanted
                if path in stored and stored[path] != wanted[path]
            ],
        ),
    ]
    parts = [f"{len(found)} {what}: {_list_some(found)}" for what, found in groups if found]
    if not parts:
        return None
    return (
        f"The stored state does not fit the model or optimizer: {'; '.join(parts)}. "
        "Use the code and configuration that made the version, or start another run."
    )


def _list_some(found: list[str]) -> str:
    shown = ", ".join(sorted(found)[:_SHOWN])
    return shown if len(found) <= _SHOWN else f"{shown} and {len(found) - _SHOWN} more"


def _spell(signature: Signature) -> str:
    return f"{str(signature[0]).removeprefix('torch.')}{list(signature[1])}"
