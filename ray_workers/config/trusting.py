"""When a version is trusted: validation, restore drills, the objective of health, the gate of promotion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ray_workers.config.settings import Rung, Settings

__all__ = ["Drilling", "Objectives", "PromotionGate", "Validation"]


class Validation(Settings):
    """How far a version must be trusted before training may resume from it."""

    required: Rung = Field(
        default="sound", description="Rung that a resume point must have reached."
    )
    max_norm_ratio: float = Field(
        default=10.0,
        gt=1,
        description="A version whose parameter norm is this many times larger or smaller than its parent's is not sound.",
    )
    max_drift: float = Field(
        default=10.0,
        gt=0,
        description=(
            "Greatest robust z-score of a change of the parameters, against the changes between the run's versions."
        ),
    )
    probe: str | None = Field(
        default=None,
        description=(
            "module:function that takes the config and returns (model, probe): the loss of a small fixed batch, which "
            "must be the same from the stored bytes as when it was saved."
        ),
    )
    probe_tolerance: float = Field(
        default=1e-5,
        ge=0,
        description="Greatest relative difference between the two losses of the probe.",
    )
    checks: tuple[str, ...] = Field(
        default=(),
        description="Your own checks, each module:function, called with a StoredVersion.",
    )
    timeout_seconds: float = Field(
        default=600, gt=0, description="Longest time for validating one version."
    )


class Drilling(Settings):
    """Which versions a restore drill takes, and how long it may take."""

    pick: Literal["newest", "undrilled"] = Field(
        default="newest",
        description=(
            "Of a run named without a version: its newest sound version, or the oldest one that no drill has restored."
        ),
    )
    most: int = Field(
        default=3,
        ge=1,
        description=(
            "Drills in one flow run at most; runs never drilled come first, then those whose last drill is the longest ago. One that "
            "comes to no verdict makes room for the next."
        ),
    )
    metric: str = Field(
        default="loss",
        description="Metric of the step after the restore that is compared with the one recorded then.",
    )
    timeout_seconds: float = Field(
        default=1800,
        gt=0,
        description="Longest time from a worker's start to the end of its first step.",
    )


class Objectives(Settings):
    """What is promised: how much work may be lost, how long coming back may take, how much may be stored."""

    at_risk_minutes: float = Field(
        default=10, gt=0, description="Most work of a running run that may be lost."
    )
    recovery_minutes: float = Field(
        default=5,
        gt=0,
        description="Longest recovery, at the 95th percentile of what was measured.",
    )
    budget_gb: float | None = Field(
        default=None, gt=0, description="Most that may be stored. Empty: no limit."
    )


class PromotionGate(Settings):
    """What a version must satisfy before a tag moves to it."""

    required: Rung = Field(default="sound", description="Rung that the version must have reached.")
    metric: str | None = Field(
        default="loss", description="Metric that is compared. Empty: metrics are not looked at."
    )
    mode: Literal["min", "max"] = Field(
        default="min", description="Whether smaller or larger is better."
    )
    threshold: float | None = Field(
        default=None, description="The metric must be at least as good as this."
    )
    allowed_regression: float = Field(
        default=0.0,
        ge=0,
        description="Share by which the metric may be worse than that of the version that has the tag now.",
    )
    drill: bool = Field(
        default=True,
        description="Load all weights once more, every digest verified, before the tag moves.",
    )
    approval: bool = Field(default=False, description="Pause until a person approves on the page.")
    approval_minutes: float = Field(
        default=1440, gt=0, description="After so many minutes without an answer it is a no."
    )
