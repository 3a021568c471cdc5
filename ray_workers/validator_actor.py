"""Validation beside training, in a process of its own: if it crashes or hangs, training does not notice."""

from __future__ import annotations

from dataclasses import dataclass

import ray
import torch

from ray_workers.store.attempts import this_process
from ray_workers.store.errors import VersionGoneError
from ray_workers.store.log import RunLog
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import VersionState, rung_at_least
from ray_workers.validation import SoundnessPolicy, record_verdicts, validate

__all__ = ["Judged", "Validator", "ValidatorActor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    number: int
    step: int
    rung: str
    reason: str | None


class Validator:
    """Brings versions of one run to the rung *sound*, newest first, and records each verdict."""

    def __init__(self, target: StorageTarget, run: str, policy: SoundnessPolicy) -> None:
        self._store = target.open().store
        self._run = run
        self._policy = policy
        self._log = RunLog(self._store, run, by=this_process(), patience_s=120.0)

    def validate_next(self) -> Judged | None:
        """Validate the newest version that still waits for a verdict; None when none does."""
        waiting = [v for v in self._log.refresh().newest_first() if _waits(v)]
        if not waiting:
            return None
        version = waiting[0]
        results = validate(
            self._store,
            self._run,
            version,
            parent_norm=self._parent_norm(version),
            policy=self._policy,
        )
        try:
            record_verdicts(self._log, version, results, checker="validator")
        except VersionGoneError:
            return None
        present = self._log.state.find(version.name) or version
        return Judged(
            number=version.number, step=version.step, rung=present.rung, reason=present.quarantine
        )

    def _parent_norm(self, version: VersionState) -> float | None:
        below = [v for v in self._log.state.newest_first() if v.number < version.number]
        return next((v.norm for v in below if v.candidate and v.norm is not None), None)


def _waits(version: VersionState) -> bool:
    return version.candidate and not rung_at_least(version.rung, "sound")


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class ValidatorActor:
    def __init__(self, target: StorageTarget, run: str, policy: SoundnessPolicy) -> None:
        torch.set_num_threads(1)
        self._validator = Validator(target, run, policy)

    def validate_next(self) -> Judged | None:
        return self._validator.validate_next()
