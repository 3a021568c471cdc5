"""What one worker saw while a restore drill ran its loop: handed over by the session when the first step is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DrillEnded", "DrillNotes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillNotes:
    steps: int
    """Steps taken after the restore: one, or none if the epochs that are wanted hold no more."""
    metrics: Mapping[str, float]
    """The newest value of each metric on this rank, after the step."""
    seconds: Mapping[str, float]
    """By phase, as `startup.StartUp` measures them."""
    probes: tuple[float, ...] = ()
    """The loop's own probe on the restored model, measured twice; empty without a probe."""
    changes: tuple[str, ...] = ()
    """What is otherwise here than where the version was saved."""
    through: bool = False
    """The loop came to the end of all epochs that are wanted."""


class DrillEnded(BaseException):
    """Ends the user's loop after its first step. No `Exception`, so that a loop that catches those lets it through."""

    def __init__(
        self,
        steps: int,
        metrics: Mapping[str, float],
        seconds: Mapping[str, float],
        probes: tuple[float, ...],
        *,
        through: bool = False,
    ) -> None:
        super().__init__("The restore drill is over.")
        self.notes = DrillNotes(
            steps=steps, metrics=metrics, seconds=seconds, probes=probes, through=through
        )
