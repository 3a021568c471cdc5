"""A user's own checks of a version, named by `module:function` in `Validation.checks`.

A check is called with a `StoredVersion`, in the validator's process or in the flow's, and returns None, or the sentence
why the version is not sound. A check that raises judges nothing: the version stays at the rung it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ray_workers.entrypoints import load_function
from ray_workers.planners import SHARED_PREFIX
from ray_workers.shard_reading import ReadShard, read_tensor, read_tensors
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.manifest import Manifest

__all__ = ["StoredVersion", "run_check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersion:
    """What a check may look at; tensors are read when asked for, every digest verified."""

    run: str
    number: int
    manifest: Manifest
    read_shard: ReadShard

    @property
    def step(self) -> int:
        return self.manifest.progress.step

    @property
    def metrics(self) -> Mapping[str, float]:
        """The newest value of each."""
        return self.manifest.metrics

    @property
    def config(self) -> Mapping[str, Any]:
        """The hyperparameters."""
        return self.manifest.config

    def tensor(self, path: str) -> torch.Tensor:
        """One tensor, whole, on the CPU, by its path in the manifest, such as `shared/model/head.weight`."""
        return read_tensor(self.manifest, path, self.read_shard)

    def model_state(self) -> dict[str, torch.Tensor]:
        """All parameters and buffers, whole, on the CPU, by the model's own names."""
        prefix = f"{SHARED_PREFIX}/model"
        found = read_tensors(self.manifest, self.read_shard, prefix=prefix)
        return {path.removeprefix(f"{prefix}/"): tensor for path, tensor in found.items()}


def run_check(reference: str, version: StoredVersion) -> str | None:
    """Why the check finds `version` not sound; None if it does not. Raises what the check raises."""
    check: Callable[[StoredVersion], Any] = load_function(reference, "check")
    answer = check(version)
    if answer is None or (isinstance(answer, str) and answer):
        return answer
    raise InvalidInputError(
        f"The check {reference!r} returned {answer!r:.60}; it must return None, or why the version is not sound."
    )
