"""What one attempt trains, where, and from which version: the trainer's one argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_workers.config import Saving, Scaling, Validation
from ray_workers.messages import ResumePoint
from ray_workers.policies.failure_rate import Evidence
from ray_workers.store.opening import StorageTarget

__all__ = ["TrainingJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """Everything one attempt needs; the fence is taken and the resume point verified."""

    target: StorageTarget
    run: str
    run_id: str
    fence: int
    flow_run_id: str
    run_count: int
    by: Mapping[str, Any]
    entrypoint: str
    config: Mapping[str, Any]
    code_dir: Path
    resume: ResumePoint | None
    scaling: Scaling
    saving: Saving
    validation: Validation
    code: str = ""
    """The version of what is in `code_dir`, when it is known."""
    failures_elsewhere: tuple[Evidence, ...] = ()
    """How other runs on the same machines fared, as the orchestrator knows it."""
    incarnation: int = 0
    """Which writer of its attempt it begins with; above 0 when another group of workers trained before."""
    time_up_at: float | None = None
    """When `saving.time_limit_seconds` are over, in seconds since the epoch: a job may have to wait on its cluster, and what
    was left when it was started says nothing then."""
