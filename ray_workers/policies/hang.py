"""Whether ranks stand still: no step for far longer than steps take. Facts in, a decision out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_workers.store.errors import InvalidInputError

__all__ = ["HangRule", "RankPulse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPulse:
    """How one rank's steps come. Seconds."""

    rank: int
    pid: int
    """Of its process, on its node."""
    step: int
    """Steps done."""
    silent_s: float
    """Since the newest of them, or since it rested."""
    gaps: int
    """Times between two steps that were measured; those of the first steps are not."""
    median_s: float
    longest_s: float
    resting: bool = False
    """No step is expected: training has not begun, or it waits for a save, or the loop says so."""
    between_epochs: bool = False
    """The newest step was the last of its epoch, so the loop may evaluate now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HangRule:
    """A rank hangs when it is silent for longer than each of three times: the user's, many steps, twice its longest gap.

    The last is what a loop shows of itself: it evaluates every thousand steps, its data come in bursts. Ranks wait for
    each other, so one that rests, or has shown too little, holds the rule off for all.
    """

    at_least_s: float
    steps: float
    """So many median steps."""
    fewest_gaps: int = 5
    gap_factor: float = 2.0
    epoch_factor: float = 6.0
    """Between two epochs all of it is so many times longer."""

    def __post_init__(self) -> None:
        if min(self.at_least_s, self.steps) <= 0:
            raise InvalidInputError("A rank hangs after a time and a number of steps above 0.")

    def limit_s(self, pulse: RankPulse) -> float:
        """How long this rank may be silent."""
        limit = max(self.at_least_s, self.steps * pulse.median_s, self.gap_factor * pulse.longest_s)
        return limit * (self.epoch_factor if pulse.between_epochs else 1.0)

    def hung(self, pulses: Sequence[RankPulse], *, rested_s: float) -> tuple[RankPulse, ...]:
        """Those that stand still; all that wait for a hung one do too.

        Args:
            pulses: of all ranks that train.
            rested_s: seconds since any of them was last seen resting.
        """
        if any(pulse.resting or pulse.gaps < self.fewest_gaps for pulse in pulses):
            return ()
        return tuple(p for p in pulses if min(p.silent_s, rested_s) > self.limit_s(p))
