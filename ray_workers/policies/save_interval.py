"""When to save: thresholds by step, epoch and time; whichever comes first. Facts in, a decision out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SaveFacts", "SaveThresholds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveFacts:
    """Where training stands now, and where it stood at the last save (or at the start of the attempt)."""

    step: int
    epoch: int
    """Epochs completed."""
    seconds: float
    """Seconds since the last save was staged."""
    last_step: int
    last_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveThresholds:
    every_steps: int | None = None
    every_epochs: int | None = None
    every_seconds: float | None = None

    def due(self, facts: SaveFacts) -> str | None:
        """The threshold that asks for a save now, in words; None: not yet.

        A threshold that was passed while a save was in flight stays due: a slow store makes intervals longer, it never
        makes a save disappear. Multiples count from step 0, so a resumed run saves at the same steps.
        """
        if facts.step <= facts.last_step:
            return None
        if _crossed(self.every_steps, facts.last_step, facts.step):
            return f"every {self.every_steps} steps"
        if _crossed(self.every_epochs, facts.last_epoch, facts.epoch):
            return f"every {self.every_epochs} epochs"
        if self.every_seconds is not None and facts.seconds >= self.every_seconds:
            return f"every {self.every_seconds:g} s"
        return None

    def next_multiple(self, step: int) -> int | None:
        """The next step above `step` at which the step threshold is due; None without one."""
        if self.every_steps is None:
            return None
        return (step // self.every_steps + 1) * self.every_steps


def _crossed(every: int | None, before: int, now: int) -> bool:
    return every is not None and now // every > before // every
