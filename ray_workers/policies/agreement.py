"""How often the ranks agree on a save decision, so that the agreement costs no more than a thousandth of training."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["AgreementPace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementPace:
    """One agreement is one tiny broadcast from rank 0; k steps lie between two of them."""

    cost_s: float = 0.0006
    """Seconds for one broadcast among two busy ranks (measured)."""
    budget: float = 0.001
    """Share of the training time that agreeing may cost."""
    longest_s: float = 5.0
    """Seconds after which a stop or a time threshold must be noticed at the latest."""
    most_steps: int = 1000

    def steps_between(self, step_s: float) -> int:
        """K for a measured step time in seconds; 1 when nothing was measured yet."""
        if step_s <= 0:
            return 1
        cheap = math.ceil(self.cost_s / (self.budget * step_s))
        timely = max(1, int(self.longest_s / step_s))
        return max(1, min(cheap, timely, self.most_steps))
