"""A range of workers: how many train, when more of them are worth a new start, whether training goes on by itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_workers.store.errors import InvalidInputError

__all__ = ["GivingBack", "GoingOn", "GroupEnd", "GrowthRule", "WorkerRange"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRange:
    least: int
    most: int
    unfit: frozenset[int] = frozenset()
    """Numbers that the loop refused, since its global batch cannot be divided among so many."""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InvalidInputError(
                f"{self.least} to {self.most} workers is no range: the least is 1 or more, and not above the most."
            )

    def fitting(self, room: int) -> int | None:
        """The greatest number that there is room for; None: not even for the least."""
        tried = range(min(room, self.most), self.least - 1, -1)
        return next((workers for workers in tried if workers not in self.unfit), None)

    def without(self, workers: int) -> WorkerRange:
        """The same, where that number is not taken again."""
        return replace(self, unfit=self.unfit | {workers})


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthRule:
    """Nodes join one after another, and each new start costs a save and a restore: so room must have been there a while."""

    after_s: float

    def wanted(self, limits: WorkerRange, *, workers: int, free: int, there_s: float) -> int | None:
        """The number of workers to begin again with; None: go on as it is.

        Args:
            limits: the range.
            workers: that train now.
            free: places beside theirs.
            there_s: seconds since the first place that is of use was free.
        """
        wanted = limits.fitting(workers + free)
        if wanted is None or wanted <= workers or there_s < self.after_s:
            return None
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class GivingBack:
    """Places that are too few are given back after a while: two runs that hold a part each would wait for each other for ever.

    Whoever else waits has them at once, so the pause is short. Each time is lengthened by chance, up to twice as long: two
    that give back and ask again together would meet for ever.
    """

    after_s: float = 30.0
    """Without one place more."""
    pause_s: float = 5.0
    """Before they are asked for again."""

    def due(self, limits: WorkerRange, *, held: int, still_s: float, chance: float) -> bool:
        """Whether they are to be given back now. What is still waited for keeps nobody waiting, and stays asked for.

        Args:
            limits: the range.
            held: places that are there.
            still_s: seconds since the newest of them came.
            chance: 0 to 1, drawn when they were asked for.
        """
        too_few = limits.fitting(held) is None and held > 0
        return too_few and still_s >= self.after_s * (1 + chance)

    def pause(self, chance: float) -> float:
        """Seconds, for a `chance` of 0 to 1."""
        return self.pause_s * (1 + chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEnd:
    """Why a group of workers ended before the training did."""

    asked: bool = False
    """For another number of workers, or for a node that goes: what was trained is saved."""
    lost: bool = False
    """Ray lost a worker, or could not start one."""
    unfit: bool = False
    """The loop refused this number of workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoingOn:
    """Whether the next group begins at once, in the same try of the flow, or the error goes up to be tried again there."""

    most_fruitless: int = 2
    """A machine that loses its workers again and again must not do so for ever."""

    def goes_on(self, end: GroupEnd, limits: WorkerRange, *, fruitless: int) -> bool:
        """Whether it does.

        Args:
            end: of the group.
            limits: what is left of the range.
            fruitless: groups in a row that began where the one before had begun.
        """
        if limits.fitting(limits.most) is None:
            return False
        if end.lost:
            return fruitless < self.most_fruitless
        return end.asked or end.unfit
