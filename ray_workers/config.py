"""What a user may set for a training run: typed, bounded, described. Prefect's run form is made of these models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from ray_workers.store.errors import InvalidInputError

__all__ = [
    "Drilling",
    "Objectives",
    "PromotionGate",
    "Retention",
    "Rung",
    "Saving",
    "Scaling",
    "Validation",
    "check_training_config",
]

Rung = Literal["committed", "verified", "sound", "restorable"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scaling(_Settings):
    """How many training workers, of what size, on which Ray cluster."""

    workers: int = Field(default=2, ge=1, le=10_000, description="Number of Ray Train workers.")
    cpus_per_worker: float = Field(default=1, gt=0, description="CPUs that each worker asks for.")
    gpus_per_worker: float = Field(default=0, ge=0, description="GPUs that each worker asks for.")
    ray_address: str | None = Field(
        default=None,
        description=(
            "An existing Ray cluster: http://host:8265 starts a Ray job there, which outlives this flow run; host:6379 or "
            "'auto' joins it from one of its nodes. Empty: start one for this run."
        ),
    )
    cluster: str | None = Field(
        default=None,
        description="Name of a cluster block, as in pawl-cluster/main, instead of an address.",
    )
    on_changed_workers: Literal["refuse", "reshard"] = Field(
        default="refuse",
        description=(
            "When the version to resume was saved by another number of workers: 'refuse', or 'reshard' (same order of "
            "samples, new random streams)."
        ),
    )
    log_lines_per_second: float = Field(
        default=20,
        ge=0,
        le=1000,
        description="Log lines of each worker that go to the flow run's Logs, in the long run. 0: none.",
    )

    @property
    def jobs_address(self) -> str | None:
        """The job server that this training runs on; None: the driver is the flow's own process."""
        address = self.ray_address or ""
        return address.rstrip("/") if address.startswith(("http://", "https://")) else None

    @model_validator(mode="after")
    def _is_no_ray_client(self) -> Scaling:
        if (self.ray_address or "").startswith("ray://"):
            raise ValueError(
                "Ray Train does not work over the Ray Client (ray://): give the job server instead, http://host:8265, or "
                "host:6379 from a node of the cluster"
            )
        return self


class Saving(_Settings):
    """When to save, and what happens when saving fails. Thresholds combine: whichever comes first."""

    every_steps: int | None = Field(default=None, ge=1, description="Save every N optimizer steps.")
    every_epochs: int | None = Field(
        default=1, ge=1, description="Save at the end of every N epochs."
    )
    every_seconds: float | None = Field(
        default=None, gt=0, description="Save when N seconds have passed."
    )
    interval: Literal["auto", "fixed"] = Field(
        default="auto",
        description=(
            "'auto': also save whenever the interval of least expected waste has passed, measured from what saves cost "
            "and how often training fails. 'fixed': at the thresholds above alone."
        ),
    )
    min_interval_seconds: float = Field(
        default=10, gt=0, description="Shortest interval that 'auto' may choose."
    )
    max_interval_seconds: float = Field(
        default=1800, gt=0, description="Longest interval that 'auto' may choose."
    )
    overhead_budget: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Share of the training time that saves at the interval of 'auto' may cost.",
    )
    network_mb_per_second: float | None = Field(
        default=None,
        gt=0,
        description="Mean rate at which 'auto' may send. Empty: as the store takes it.",
    )
    storage_gb_per_day: float | None = Field(
        default=None,
        gt=0,
        description="What the saves of 'auto' may add in a day, before retention. Empty: no limit.",
    )
    grace_seconds: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        description=(
            "Seconds for a last save when the run is interrupted. Empty: 6 after Ctrl-C, 18 after SIGTERM or a cancel, "
            "which Prefect and Kubernetes give 30 seconds in all."
        ),
    )
    time_limit_seconds: float | None = Field(
        default=None,
        gt=0,
        description=(
            "Seconds after which this process must be over, as for a job with a time limit: training saves and ends a "
            "little earlier, and a retry goes on. Empty: no limit."
        ),
    )
    upload_tries: int = Field(
        default=4,
        ge=1,
        le=20,
        description="Tries to store one shard before its version is dropped.",
    )
    failure_budget: int = Field(
        default=3,
        ge=0,
        description="Versions that may be dropped in a row; one more ends the attempt, which can be retried.",
    )
    buffers: int = Field(
        default=2,
        ge=1,
        le=8,
        description="Staging buffers a worker holds in shared memory, each the size of its shard.",
    )
    full_every: int = Field(
        default=16,
        ge=1,
        description=(
            "Versions that may share one stored shard of tensors that do not change, before it is stored again: they "
            "share its fate. 1: every version is stored whole."
        ),
    )
    hot_restore: bool = Field(
        default=True,
        description=(
            "Leave the staging buffers of an attempt that failed in memory, so that the next one on the same node reads "
            "from there what it can. Off: they are freed at once."
        ),
    )
    staging_dir: str = Field(
        default="/dev/shm",  # noqa: S108 - shared memory is the point
        description="Folder for staging buffers; it must be memory-backed to be fast.",
    )

    @model_validator(mode="after")
    def _leaves_an_interval(self) -> Saving:
        if self.min_interval_seconds > self.max_interval_seconds:
            raise ValueError("min_interval_seconds must not be above max_interval_seconds")
        return self


class Validation(_Settings):
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


class Drilling(_Settings):
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
        description="Drills in one flow run at most; runs whose last drill is the longest ago come first.",
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


class Objectives(_Settings):
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


class PromotionGate(_Settings):
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


class Retention(_Settings):
    """Which versions to keep. A version kept by any of these, or protected by the store, is not retired."""

    keep_last: int | None = Field(
        default=None, ge=1, description="Keep the newest N versions. Empty: keep all."
    )
    keep_every_steps: int | None = Field(
        default=None, ge=1, description="Keep versions at multiples of N steps."
    )
    keep_every_epochs: int | None = Field(
        default=None, ge=1, description="Keep the version at the end of every N epochs."
    )
    keep_best: int | None = Field(
        default=None, ge=1, description="Keep the best N versions by the metric below."
    )
    metric: str = Field(default="loss", description="Metric by which versions are the best.")
    mode: Literal["min", "max"] = Field(
        default="min", description="Whether smaller or larger is better."
    )
    thin: str | None = Field(
        default=None,
        description="Thin by age: '1h/1d,1d' keeps one version an hour for a day, and one a day after.",
    )

    @property
    def keeps_everything(self) -> bool:
        rules = (self.keep_last, self.keep_every_steps, self.keep_every_epochs, self.keep_best)
        return all(rule is None for rule in rules) and self.thin is None

    @model_validator(mode="after")
    def _names_a_metric(self) -> Retention:
        if self.keep_best is not None and not self.metric:
            raise ValueError("keep_best needs the name of a metric")
        return self


_SECRET_WORDS = {
    "password", "passwd", "passphrase", "secret", "secrets", "token", "apikey", "credential", "credentials",
}  # fmt: skip
_SECRET_PAIRS = {
    ("api", "key"),
    ("access", "key"),
    ("private", "key"),
    ("secret", "key"),
    ("auth", "key"),
}


def check_training_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The user's hyperparameters, checked: JSON values only, and nothing that looks like a secret.

    They are stored in every manifest and shown on the flow run's page, so a secret must not be among them.

    Raises:
        InvalidInputError: names the key, and what to use instead.
    """
    checked: dict[str, Any] = {
        str(key): _checked(value, str(key), str(key)) for key, value in config.items()
    }
    return checked


def _checked(value: Any, path: str, key: str) -> Any:
    if isinstance(value, SecretStr) or _looks_secret(key):
        raise InvalidInputError(
            f"The configuration value {path!r} is, or is named like, a secret. Hyperparameters are stored with every "
            "version and shown in the UI. Put the secret into a Prefect Secret block, or into the workers' "
            "environment, and load it inside the training loop."
        )
    if isinstance(value, Mapping):
        return {str(k): _checked(v, f"{path}.{k}", str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_checked(item, path, key) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(
            f"The configuration value {path!r} is {value}, which JSON does not have; use a finite number or text."
        )
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvalidInputError(
        f"The configuration value {path!r} is a {type(value).__name__}; use numbers, text, true/false, lists or objects."
    )


def _looks_secret(key: str) -> bool:
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    words = [word for word in re.split(r"[^a-z0-9]+", split.lower()) if word]
    return bool(_SECRET_WORDS & set(words)) or any(
        pair in _SECRET_PAIRS for pair in pairwise(words)
    )
