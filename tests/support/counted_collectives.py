"""Which collectives Pawl itself makes while it trains, and how often it plans; for `RankPool`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch.distributed as dist

from ray_workers import saver
from ray_workers.shard_plan import plan_shard
from tests.support.group_attempt import GroupAttempt, train_in_group
from tests.support.in_process import PatientSaver

__all__ = ["Counts", "count_in_group"]

_COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "barrier", "broadcast",
    "broadcast_object_list", "gather", "gather_object", "monitored_barrier", "recv", "reduce", "reduce_scatter", "scatter",
    "scatter_object_list", "send",
)  # fmt: skip
Counts = dict[str, int]


def count_in_group(attempt: GroupAttempt) -> Counts:
    """Train on this rank: how often each collective was called by Pawl's own code, `plan` and `save` among them."""
    counts: Counter[str] = Counter()
    stage = PatientSaver.stage

    def planned(*args: Any, **kwargs: Any) -> Any:
        counts["plan"] += 1
        return plan_shard(*args, **kwargs)

    def staged(*args: Any, **kwargs: Any) -> Any:
        counts["save"] += 1
        return stage(*args, **kwargs)

    with ExitStack() as patches:
        for name in _COLLECTIVES:
            patches.enter_context(mock.patch.object(dist, name, _counted(name, counts)))
        patches.enter_context(mock.patch.object(saver, "plan_shard", planned))
        patches.enter_context(mock.patch.object(PatientSaver, "stage", staged))
        _, error = train_in_group(attempt)
    assert error is None, error
    return dict(counts)


def _counted(name: str, counts: Counter[str]) -> Callable[..., Any]:
    real = getattr(dist, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith("ray_workers."):
            counts[name] += 1
        return real(*args, **kwargs)

    return counted
