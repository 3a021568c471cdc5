"""The live state of one rank, named as a version names it; no tensor is copied here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_workers.device_copy import check_device
from ray_workers.environment import environment_of
from ray_workers.loss_probe import PROBE_METRIC, Probe, measure
from ray_workers.own_objects import capture_own
from ray_workers.planners import SHARED_PREFIX, rank_prefix
from ray_workers.rank_content import RankContent
from ray_workers.series import MetricSeries
from ray_workers.shard_io import plan_shard
from ray_workers.state_tree import split
from ray_workers.store.manifest_parts import INTERRUPTED
from ray_workers.training_state import (
    Stateful,
    TrainingParts,
    capture,
    frozen_paths,
    steady_paths,
)

__all__ = ["LeadNotes", "OwnState", "check_parts", "live_content"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnState:
    """What a rank has alone, and gets back alone."""

    rank: int
    rng: Any
    position: Any
    series: MetricSeries
    objects: Mapping[str, Stateful] = field(default_factory=dict)
    """What the loop handed over as `own`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadNotes:
    """What rank 0 adds for all."""

    environment: Mapping[str, str]
    timings: Mapping[str, float]
    """Seconds."""
    interrupted_by: str | None
    """Why this is an attempt's last version, when something ended it."""


def check_parts(parts: TrainingParts, own: Mapping[str, Stateful], *, rank: int) -> None:
    """Return if a save of all this as it is now could be made on this rank; no tensor is copied, no rank asked.

    What appears only later, as an optimizer's state does with its first step, is not seen.

    Raises:
        InvalidInputError: something in them cannot be stored; the message names its place.
    """
    tree = capture(parts)
    local = capture_own(parts.model, tree["model"], own, rank=rank)
    tensors = {
        **split(tree, prefix=SHARED_PREFIX).tensors,
        **split(local, prefix=rank_prefix(rank)).tensors,
    }
    for path, tensor in tensors.items():
        check_device(f"The tensor {path}", tensor)
    plan_shard(tensors, rank=rank)


def live_content(
    own: OwnState, parts: TrainingParts | None, probe: Probe | None, lead: LeadNotes | None
) -> RankContent:
    """The state as it is now. With a probe all ranks call this together.

    Args:
        own: this rank's.
        parts: what all ranks share; None: the loop hands over directories.
        probe: measured here, on the model as it is saved.
        lead: of rank 0, None on the others.
    """
    probed = {}
    if probe is not None and parts is not None:
        probed = {PROBE_METRIC: measure(parts.model, probe)}
    tree = capture(parts) if parts else {}
    beside = capture_own(
        parts.model if parts else None, tree.get("model", ()), own.objects, rank=own.rank
    )
    local = split(
        {"rng": own.rng, "data": own.position, "series": own.series.state(), **beside},
        prefix=rank_prefix(own.rank),
    )
    shared = split(tree, prefix=SHARED_PREFIX)
    return RankContent(
        tensors={**shared.tensors, **local.tensors},
        steady=steady_paths(parts, shared.tensors) if parts else frozenset(),
        frozen=frozen_paths(parts, shared.tensors) if parts else frozenset(),
        rank_plain=local.plain,
        plain=shared.plain if lead else None,
        metrics={**own.series.latest(), **probed} if lead else {},
        curve=own.series.curves() if lead else {},
        environment=_environment(lead) if lead else {},
        timings=lead.timings if lead else {},
    )


def _environment(lead: LeadNotes) -> dict[str, str]:
    interrupted = {} if lead.interrupted_by is None else {INTERRUPTED: lead.interrupted_by}
    return {**environment_of(lead.environment), **interrupted}
