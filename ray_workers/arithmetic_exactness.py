"""Whether the same steps give the same bits after a resume: seen from the model, and said at the start.

What a version holds does not decide this alone; so does the order in which numbers are added up.
"""

from __future__ import annotations

import logging

import torch
from torch.nn.parallel import DistributedDataParallel

__all__ = ["announce_arithmetic", "look_at_model"]

_log = logging.getLogger("pawl")


def look_at_model(model: torch.nn.Module, *, world_size: int) -> tuple[tuple[int, str], ...]:
    """What may give other bits after a resume: a level of `logging`, and a sentence, for each."""
    found = []
    # Two gradients have but one sum.
    if world_size > 2 and any(map(_lays_buckets_anew, model.modules())):  # noqa: PLR2004
        sentence = (
            f"DistributedDataParallel lays out its buckets anew after its first backward, so {world_size} gradients add up in "
            "another order in the first step after a resume, which is not bit-identical then. It is with "
            "find_unused_parameters=True and without static_graph, or with FSDP2 (fully_shard)."
        )
        found.append((logging.WARNING, sentence))
    on_cuda = any(parameter.is_cuda for parameter in model.parameters())
    if on_cuda and not torch.are_deterministic_algorithms_enabled():
        sentence = (
            "On CUDA some of torch's kernels add up in another order each time: a resume is bit-identical only as far as two "
            "runs are. torch.use_deterministic_algorithms(True), with CUBLAS_WORKSPACE_CONFIG=:4096:8, makes them so."
        )
        found.append((logging.INFO, sentence))
    return tuple(found)


def _lays_buckets_anew(module: torch.nn.Module) -> bool:
    if not isinstance(module, DistributedDataParallel):
        return False
    return bool(module.static_graph or not module.find_unused_parameters)


def announce_arithmetic(model: torch.nn.Module, *, world_size: int) -> None:
    """Say at the start what may not be bit-identical; for rank 0."""
    for level, sentence in look_at_model(model, world_size=world_size):
        _log.log(level, sentence)
