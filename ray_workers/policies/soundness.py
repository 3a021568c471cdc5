"""When a version is *sound*: the bounds, and the judgement of drift. Pure; what is measured comes from `validation`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from ray_workers.config import Validation

__all__ = ["Drift", "SoundnessPolicy", "robust_z"]

_NORMAL = 1.4826
"""Makes the median absolute deviation of normal numbers their standard deviation (Rousseeuw and Croux, 1993)."""
_NORM_FLOOR = 0.05
_UPDATE_FLOOR = 0.3
"""A spread below this counts as this (natural logarithm): a history of almost equal numbers must not make a usual change
an outlier. With the default of 10 a norm may change by a factor of 1.6 at least, an update by one of 20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spacing:
    """Steps between versions. Saves need not be evenly spaced: an interval is changed, a run ends between two of them."""

    usual: float
    """Between two saves of the run, as a rule."""
    gaps: tuple[int, ...]
    """Up to the version that is judged from the first of `Drift.norms`, up to that from the second, and so on."""
    unspoilt: int | None = None
    """Since a version that was refused on the way here: what is wrong with that one may not hide in a longer gap."""

    def update_steps(self, steps: int) -> float:
        """What to divide an update over `steps` by.

        Steps on a plateau go back and forth and do not add up: each of a few is as large as all of many together. So what is
        allowed over a usual gap is allowed over a shorter one.
        """
        return max(steps, self.usual)

    def shares(self) -> tuple[float, ...]:
        """Each gap in usual ones."""
        return tuple(max(gap, 0) / self.usual for gap in self.gaps)

    @property
    def leeway(self) -> float:
        """By how much more than between two usual saves a norm may stray from its course."""
        newest = self.gaps[0] if self.unspoilt is None else self.unspoilt
        return max(newest / self.usual, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What earlier sound versions of the run were like, newest first."""

    parent_norm: float | None = None
    """L2 norm of the parameters of the version before."""
    norms: tuple[float, ...] = ()
    updates: tuple[float, ...] = ()
    """L2 norm of the change of all parameters, per step, from each version's parent."""
    spacing: Spacing | None = None
    """None: as if all versions were equally far apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundnessPolicy:
    max_norm_ratio: float = 10.0
    max_drift: float = 10.0
    """Greatest robust z-score of the logarithm of a change."""
    history: int = 6
    """With fewer earlier versions than this, drift is not judged."""
    probe: str | None = None
    """`module:function` that builds the model and its loss probe."""
    probe_tolerance: float = 1e-5
    """Greatest relative difference between the probe's loss when saved and from the stored bytes."""
    checks: tuple[str, ...] = ()
    """`module:function` of the user's own checks."""

    @classmethod
    def of(cls, settings: Validation) -> Self:
        """What a user's settings ask for."""
        return cls(
            max_norm_ratio=settings.max_norm_ratio,
            max_drift=settings.max_drift,
            probe=settings.probe,
            probe_tolerance=settings.probe_tolerance,
            checks=settings.checks,
        )

    def jump(self, norm: float, parent: float | None) -> str | None:
        """Why the step from the parent's parameter norm to this one is not credible; None if it is."""
        if parent is None or parent <= 0 or norm <= 0:
            return None
        ratio = max(norm / parent, parent / norm)
        if ratio <= self.max_norm_ratio:
            return None
        return (
            f"the L2 norm of the parameters went from {parent:.6g} to {norm:.6g}, a factor of {ratio:.3g}; "
            f"{self.max_norm_ratio:g} is allowed"
        )

    def norm_score(self, norm: float, drift: Drift) -> float | None:
        """How unusual the change of the norm is, against the changes between the run's versions; None: unknown.

        The norm may stand still, or go on as it went for each step, or anything between.
        """
        chain = [norm, *drift.norms]
        spacing = drift.spacing
        shares = (1.0,) * len(drift.norms) if spacing is None else spacing.shares()
        changes = [
            (math.log(new / old), share)
            for (new, old), share in zip(pairwise(chain), shares, strict=True)
            if new > 0 < old
        ]
        if norm <= 0 or len(changes) <= self.history:
            return None
        (newest, share), *others = changes
        earlier = [change / max(gap, 1.0) for change, gap in others]
        straight = share * statistics.median(earlier)
        likely = min(max(newest, min(straight, 0.0)), max(straight, 0.0))
        leeway = 1.0 if spacing is None else spacing.leeway
        return (newest - likely) / max(leeway * _spread(earlier), _NORM_FLOOR)

    def update_score(self, update: float | None, drift: Drift) -> float | None:
        """How unusually large the update per step is, against those of the run's versions; None: unknown."""
        if update is None or update <= 0:
            return None
        newest, *earlier = [math.log(u) for u in (update, *drift.updates) if u > 0]
        return (
            None if len(earlier) < self.history else robust_z(newest, earlier, floor=_UPDATE_FLOOR)
        )

    def drifted(self, norm_score: float | None, update_score: float | None) -> str | None:
        """Why such scores are not credible; None if they are. Small updates are: a schedule ends with them."""
        if norm_score is not None and abs(norm_score) > self.max_drift:
            return (
                f"the L2 norm of the parameters changed as it never did before in this run: robust z-score "
                f"{norm_score:.3g}, at most {self.max_drift:g} is allowed"
            )
        if update_score is not None and update_score > self.max_drift:
            return (
                f"the parameters moved farther in a step than ever before in this run: robust z-score "
                f"{update_score:.3g}, at most {self.max_drift:g} is allowed"
            )
        return None


def robust_z(value: float, earlier: Sequence[float], *, floor: float) -> float:
    """(value - median) / max(1.4826 MAD, floor) over `earlier`, which must not be empty."""
    return (value - statistics.median(earlier)) / max(_spread(earlier), floor)


def _spread(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return _NORMAL * statistics.median(abs(item - middle) for item in values)
