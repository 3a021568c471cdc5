"""What a training loop's process knows of its run. The trainer sets it before the loop starts; `session` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray_workers.heart import Heart
from ray_workers.interval_controller import IntervalPlan
from ray_workers.messages import ResumePoint
from ray_workers.pipeline import SavePipeline
from ray_workers.policies.save_interval import SaveThresholds
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.staging_files import StagingFolder
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.opening import StorageTarget

__all__ = [
    "Announcer",
    "TrainingContext",
    "check_unclaimed",
    "claim_session",
    "current_context",
    "set_context",
]


class Announcer(Protocol):
    """Tells the training framework of committed versions; see `ray_reporting`."""

    def announce(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """Called on every rank, in the same order. Returns at once and never raises."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingContext:
    storage: StorageTarget
    run: str
    run_id: str
    fence: int
    """The attempt's; needed to choose again when the resume point fails while it is restored."""
    rank: int
    world_size: int
    config: Mapping[str, Any]
    resume: ResumePoint | None
    thresholds: SaveThresholds
    buffers: int
    pipeline: SavePipeline
    announcer: Announcer | None = None
    on_changed_workers: str = "refuse"
    """`refuse`, or `reshard`: what to do with a version that another number of workers saved."""
    interval: IntervalPlan | None = None
    """What the interval between saves is chosen from; None: the thresholds alone count."""
    required: str = "sound"
    policy: SoundnessPolicy = field(default_factory=SoundnessPolicy)
    staging: StagingFolder | None = None
    """Where this node's staging files lie; None: every restore reads the store."""
    place: tuple[int, int] = (0, 1)
    """This rank's number among those of its node, and how many they are."""
    full_every: int = 16
    """Versions that may name one stored shard before it is stored again; 1: every save sends everything."""
    launched_at: str | None = None
    """When the flow began to start the workers; UTC, ISO 8601."""
    started_as: Mapping[str, str] = field(default_factory=dict)
    """What starting it again takes (`environment.started_as`); stands in the environment of each version."""
    heart: Heart = field(default_factory=Heart)
    """Hears of each step."""
    drill: bool = False
    """This is a restore drill: the loop ends after one step, nothing is stored, and a version that fails is left as it is."""


_current: TrainingContext | None = None
_claimed = False


def set_context(context: TrainingContext | None) -> None:
    global _current, _claimed
    _current, _claimed = context, False


def current_context() -> TrainingContext:
    """Raises `InvalidInputError` outside a loop that Pawl started."""
    if _current is None:
        raise InvalidInputError(
            "This training loop was not started by Pawl, so there is nowhere to save to. Start it with "
            "`pawl train MODULE:FUNCTION`, or from the flow."
        )
    return _current


def check_unclaimed() -> None:
    """Raises `InvalidInputError` when this loop's one session was opened already.

    A second one would number its saves from the first again, and be told of each that it is stored, as an older one is.
    """
    if _claimed:
        raise InvalidInputError(
            "This training loop has opened a CheckpointSession already, and what a second one saves would not be stored. Open one "
            "session for all phases, with their models in one module, their optimizers in a dict and anything else in "
            "`extra`; or give each phase or fold a run of its own (--run)."
        )


def claim_session() -> None:
    """The loop's session is open: there is no other one until the next `set_context`."""
    global _claimed  # noqa: PLW0603 - as `set_context`
    _claimed = True
