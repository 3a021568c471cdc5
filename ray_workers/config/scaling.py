"""How many training workers, and on which Ray cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ray_workers.config.settings import Settings

__all__ = ["Scaling"]


class Scaling(Settings):
    """How many training workers, of what size, on which Ray cluster."""

    workers: int = Field(default=2, ge=1, le=10_000, description="Number of Ray Train workers.")
    max_workers: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description=(
            "As many workers as there is room for train, from 'workers' up to so many; when nodes join or leave, training "
            "goes on with another number. Needs on_changed_workers = 'reshard'. Empty: always 'workers'."
        ),
    )
    grow_after_seconds: float = Field(
        default=60,
        ge=0,
        description="Of a range of workers: room for more must have been there so long before training saves and uses it.",
    )
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

    hung_after_seconds: float = Field(
        default=600,
        ge=0,
        description=(
            "A rank that takes no step for so long, and for far longer than its steps took, hangs: the attempt ends with the "
            "stacks of all ranks, and is tried again. 0: never."
        ),
    )
    hung_after_steps: float = Field(
        default=30,
        gt=1,
        description="How many times the median step counts as far longer. Twice the longest wait so far counts as well.",
    )

    @property
    def jobs_address(self) -> str | None:
        """The job server that this training runs on; None: the driver is the flow's own process."""
        address = self.ray_address or ""
        return address.rstrip("/") if address.startswith(("http://", "https://")) else None

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """By Ray's names."""
        gpus = {"GPU": self.gpus_per_worker} if self.gpus_per_worker else {}
        return {"CPU": self.cpus_per_worker, **gpus}

    def fixed_at(self, workers: int) -> Scaling:
        """The same with one number of workers instead of a range."""
        return self.model_copy(update={"workers": workers, "max_workers": None})

    @model_validator(mode="after")
    def _is_a_range(self) -> Scaling:
        if self.max_workers is None:
            return self
        if self.max_workers < self.workers:
            raise ValueError(
                f"The most workers ({self.max_workers}) must not be fewer than the least ({self.workers})"
            )
        if self.on_changed_workers != "reshard":
            raise ValueError(
                "A range of workers changes their number while the run trains: allow it with on_changed_workers = "
                "'reshard' (--on-changed-workers reshard), which brings new random streams"
            )
        return self

    @model_validator(mode="after")
    def _is_an_address_that_may_be_shown(self) -> Scaling:
        if "@" in (self.ray_address or ""):
            raise ValueError(
                "The address of the Ray cluster must hold no user or password, for it is shown: give the token in "
                "RAY_AUTH_TOKEN, or in a cluster block"
            )
        if (self.ray_address or "").startswith("ray://"):
            raise ValueError(
                "Ray Train does not work over the Ray Client (ray://): give the job server instead, http://host:8265, or "
                "host:6379 from a node of the cluster"
            )
        return self
