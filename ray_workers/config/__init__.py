"""What a user may set for a training run: typed, bounded, described. Prefect's run form is made of these models."""

from __future__ import annotations

from ray_workers.config.hyperparameters import check_training_config
from ray_workers.config.retention import Retention
from ray_workers.config.saving import Saving
from ray_workers.config.scaling import Scaling
from ray_workers.config.settings import Rung
from ray_workers.config.trusting import Drilling, Objectives, PromotionGate, Validation

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
