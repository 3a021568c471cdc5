"""Which versions to keep."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ray_workers.config.settings import Settings
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.metric_mode import mode_of

__all__ = ["Retention"]


class Retention(Settings):
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
        if self.keep_best is None:
            return self
        if not self.metric:
            raise ValueError("keep_best needs the name of a metric")
        if "mode" not in self.model_fields_set:
            _check_loss(self.metric)
        return self


def _check_loss(metric: str) -> None:
    """By default the smallest is the best, which of another metric than a loss would keep the worst."""
    try:
        mode_of(metric, None)
    except InvalidInputError as error:
        raise ValueError(error.message) from None
