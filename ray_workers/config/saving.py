"""When to save, what a save may cost, and what happens when saving fails."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ray_workers.config.settings import Settings

__all__ = ["Saving"]


class Saving(Settings):
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
        default=12,
        ge=1,
        le=20,
        description=(
            "Tries to store one shard before its version is dropped; pauses between them grow to ten seconds, so twelve "
            "take a minute beside the tries themselves."
        ),
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
    staging_limit_mb: float | None = Field(
        default=None,
        gt=0,
        description=(
            "Megabytes that the staging buffers of one worker may take together; a save that needs more ends the run. "
            "Empty: what is free."
        ),
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
