"""The loss probe: one small fixed batch, evaluated when a version is saved and again from its stored bytes.

A digest vouches for what was staged; the probe vouches that this is the model that was trained. When saved, the loop's
own probe gives the loss (`CheckpointSession.open(probe=…)`). The validator, in a process that never trained, calls the
function that `Validation.probe` names, as `module:function`: it takes the run's config and returns a fresh model and a
probe of it. The stored parameters are put into that model, and the two losses must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from ray_workers import rng
from ray_workers.entrypoints import load_function
from ray_workers.plain_names import plain_state
from ray_workers.planners import SHARED_PREFIX
from ray_workers.shard_reading import ReadShard, check_fit, load_tensors
from ray_workers.state_tree import split
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.manifest import Manifest

__all__ = ["PROBE_METRIC", "Probe", "measure", "measure_stored", "measure_twice"]

PROBE_METRIC = "probe_loss"
"""Name of the probe's loss among a version's metrics."""

Probe = Callable[[], Any]
"""Gives the loss of the model as it is now, a number or a tensor of one element."""


def measure(model: torch.nn.Module, probe: Probe) -> float:
    """The probe's loss of `model`: in evaluation mode, without gradients; random state and modes are put back.

    All ranks call it together when the model is sharded or replicated.
    """
    with _undisturbed(model):
        value = probe()
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def measure_twice(model: torch.nn.Module, probe: Probe) -> tuple[float, float]:
    """As `measure`: two losses that differ say that the probe, or the machine, does not repeat itself."""
    return measure(model, probe), measure(model, probe)


@contextmanager
def _undisturbed(model: torch.nn.Module) -> Iterator[None]:
    before = rng.capture()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
            if isinstance(module, FSDPModule):
                # A forward pass leaves the outermost parameters whole until a backward pass that does not come.
                module.reshard()
        rng.restore(before)


def measure_stored(manifest: Manifest, read_shard: ReadShard, reference: str) -> float:
    """The loss of the stored parameters and buffers, in a model that `reference` builds.

    Raises:
        InvalidInputError: `reference` is no such function.
        StateMismatchError: its model is not the stored one.
        DamageError: a shard is damaged.
        Exception: whatever the function or the probe raises.
    """
    built = load_function(reference, "probe")(dict(manifest.config))
    try:
        model, probe = built
    except (TypeError, ValueError):
        model = probe = None
    if not isinstance(model, torch.nn.Module) or not callable(probe):
        raise InvalidInputError(
            f"The probe {reference!r} returned {type(built).__name__}; it must return (model, probe)."
        )
    _fill(model, manifest, read_shard)
    return measure(model, probe)


def _fill(model: torch.nn.Module, manifest: Manifest, read_shard: ReadShard) -> None:
    prefix = f"{SHARED_PREFIX}/model"
    tensors: Mapping[str, torch.Tensor] = split(plain_state(model), prefix=prefix).tensors
    check_fit(tensors, manifest, prefix=prefix)
    load_tensors(tensors, manifest, read_shard, prefix=prefix)
