"""Validation beside training, in a process of its own: if it crashes or hangs, training does not notice."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import ray
import torch

from ray_workers.metrics import RunMetrics
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.ray_metrics import RayInstruments
from ray_workers.store.attempts import this_process
from ray_workers.store.errors import PawlError, VersionGoneError
from ray_workers.store.log import RunLog
from ray_workers.store.opening import StorageTarget
from ray_workers.store.run_state import VersionState, rung_at_least
from ray_workers.store.versions import UNREADABLE, load_manifest
from ray_workers.uploader import lower_priority
from ray_workers.validation import CheckResult, record_verdicts, validate

__all__ = ["Judged", "Validator", "ValidatorActor"]

_TRIES = 3
"""So often a version is read that cannot be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    number: int
    step: int
    rung: str
    reason: str | None
    """Why it is quarantined."""
    committed_at: float | None = None
    """Seconds since the epoch, by the committer's clock."""
    until_committed_s: float = 0.0
    """From the begin of its copy; 0 if its manifest does not tell."""
    problem: str | None = None
    """Why it could not be judged; it keeps the rung it had."""


class Validator:
    """Brings versions of one run to the rung *sound*, newest first, and records each verdict."""

    def __init__(self, target: StorageTarget, run: str, policy: SoundnessPolicy) -> None:
        self._store = target.open().store
        self._run = run
        self._policy = policy
        self._log = RunLog(self._store, run, by=this_process(), patience_s=120.0)
        self._tries: Counter[int] = Counter()
        self._set_aside: set[int] = set()
        """Could not be judged; looked at again, a few times, when a later version could be."""

    def validate_next(self) -> Judged | None:
        """Validate the newest version that still waits for a verdict; None when none does.

        Raises:
            RetryableError: the store cannot be reached; the version waits on.
        """
        while (version := self._newest_waiting()) is not None:
            results = validate(self._store, version, state=self._log.state, policy=self._policy)
            try:
                record_verdicts(self._log, version, results, checker="validator")
            except VersionGoneError:
                continue  # it waits no longer, and others may
            return self._judged(version, results)
        return None

    def _newest_waiting(self) -> VersionState | None:
        newest_first = self._log.refresh().newest_first()
        waiting = (v for v in newest_first if _waits(v) and v.number not in self._set_aside)
        return next(waiting, None)

    def _judged(self, version: VersionState, results: list[CheckResult]) -> Judged:
        present = self._log.state.find(version.name) or version
        problem = results[-1].reason if results[-1].check == UNREADABLE else None
        self._remember(version.number, judged=problem is None)
        return Judged(
            number=version.number,
            step=version.step,
            rung=present.rung,
            reason=present.quarantine,
            committed_at=_epoch(version.at),
            until_committed_s=self._until_committed(version),
            problem=problem,
        )

    def _until_committed(self, version: VersionState) -> float:
        with contextlib.suppress(PawlError):  # a view: whether the version holds was just recorded
            manifest = load_manifest(self._store, self._run, version)
            return manifest.durations.get("durable_s", 0.0)
        return 0.0

    def _remember(self, number: int, *, judged: bool) -> None:
        if judged:
            self._set_aside -= {
                n for n in self._set_aside if n < number and self._tries[n] < _TRIES
            }
        else:
            self._tries[number] += 1
            self._set_aside.add(number)


def _epoch(at: str) -> float | None:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return None


def _waits(version: VersionState) -> bool:
    return version.candidate and not rung_at_least(version.rung, "sound")


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class ValidatorActor:
    def __init__(self, target: StorageTarget, run: str, policy: SoundnessPolicy) -> None:
        lower_priority()
        torch.set_num_threads(1)
        self._validator = Validator(target, run, policy)
        self._metrics = RunMetrics(RayInstruments(), run)

    def validate_next(self) -> Judged | None:
        judged = self._validator.validate_next()
        if judged is not None and judged.problem is None:
            self._metrics.judged(
                judged.rung,
                judged.step,
                judged.committed_at,
                until_committed_s=judged.until_committed_s,
            )
        return judged
