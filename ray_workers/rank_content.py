"""What one rank contributes to a version, and how it is handed over once it lies in a staging buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import torch

from ray_workers.messages import RankState, StagedFile, StagedPart
from ray_workers.shard_plan import ShardPlan
from ray_workers.store.checksum import digest_of
from ray_workers.store.manifest import Curve

__all__ = ["RankContent", "digests_in", "rank_state", "staged_parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankContent:
    """What this rank contributes to a version."""

    tensors: Mapping[str, torch.Tensor]
    rank_plain: Any = None
    plain: Any = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, Curve] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    files: tuple[StagedFile, ...] = ()
    payload: str = "state"
    steady: AbstractSet[str] = frozenset()
    """Paths of tensors that only an optimizer's step changes."""
    frozen: AbstractSet[str] = frozenset()
    """Paths of parameters that are not trained."""


def staged_parts(plan: ShardPlan, *, with_layout: bool) -> tuple[StagedPart, ...]:
    """The planned shards as they lie in the buffer."""
    return tuple(
        StagedPart(
            begin=part.begin,
            bytes=part.bytes,
            layout=part.layouts if with_layout else {},
            still=number > 0,
        )
        for number, part in enumerate(plan.parts)
    )


def digests_in(plan: ShardPlan, memory: memoryview) -> Callable[[str], str]:
    """Gives the digest of a tensor's copy by its path."""
    places = {chunk.path: (chunk.position, chunk.position + chunk.nbytes) for chunk in plan.chunks}

    def digest(path: str) -> str:
        begin, end = places.get(path, (0, 0))
        return digest_of(memory[begin:end])

    return digest


def rank_state(content: RankContent) -> RankState:
    """What goes along with the bytes."""
    return RankState(
        rank_plain=content.rank_plain,
        plain=content.plain,
        metrics=content.metrics,
        curve=content.curve,
        environment=content.environment,
        files=content.files,
        timings=content.timings,
    )
