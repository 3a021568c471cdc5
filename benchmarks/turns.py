"""One training that saves, does not save, saves again: the same steps on the same machine in the same minutes, told apart.

A stretch that saves begins with a save and ends where the next one would begin after `saves` of them, so it holds as many
whole intervals as saves. A stretch that does not has as many steps as the one before. Two make a pair, and which of them comes
first alternates, so that a machine that gets slower favours neither: saving, bare; bare, saving; saving, bare, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Mark", "Stretch", "Turns", "pairs_of", "stretches_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where a stretch began."""

    saving: bool
    step: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What lies between two marks."""

    saving: bool
    steps: int
    seconds: float

    @property
    def step_s(self) -> float:
        return self.seconds / self.steps


class Turns:
    """Decides whether a save that is due begins.

    Args:
        saves: of each stretch that saves.
        warm: saves before the first stretch, from which the controller learns what one costs.
        clock: of the training process; seconds.
    """

    def __init__(self, *, saves: int, warm: int, clock: Callable[[], float]) -> None:
        self._saves, self._clock = saves, clock
        self.marks: list[Mark] = []
        self._left = warm
        """Saves that the newest stretch, or what comes before the first, still makes."""
        self._length = 0

    def due(self, step: int, wanted: Callable[[], bool]) -> bool:
        """Whether a save begins after this step; `wanted` says whether one would without turns."""
        if self.marks and not self.marks[-1].saving:
            if step - self.marks[-1].step < self._length:
                return False
            if not self._saving_next:
                return self._begin(step)
        if not wanted():
            return False
        if self._left:
            self._left -= 1
            return True
        return self._begin(step)

    @property
    def _saving_next(self) -> bool:
        return len(self.marks) % 4 in {0, 3}

    def _begin(self, step: int) -> bool:
        """The next stretch; whether it begins with a save."""
        saving = self._saving_next
        if self.marks and self.marks[-1].saving:
            self._length = step - self.marks[-1].step
        self._left = self._saves - 1 if saving else 0
        self.marks.append(Mark(saving=saving, step=step, at_s=self._clock()))
        return saving


def stretches_of(marks: Sequence[Mark]) -> list[Stretch]:
    """Those that were over, in their order; the last mark only ends one."""
    return [
        Stretch(saving=a.saving, steps=b.step - a.step, seconds=b.at_s - a.at_s)
        for a, b in pairwise(marks)
    ]


def pairs_of(stretches: Sequence[Stretch]) -> list[tuple[Stretch, Stretch]]:
    """Each stretch that saves with the bare one beside it; without the last if it has no other."""
    two = zip(stretches[::2], stretches[1::2], strict=False)
    return [(a, b) if a.saving else (b, a) for a, b in two]
