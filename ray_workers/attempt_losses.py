"""What each attempt's interruption cost: steps done again, and seconds that brought nothing. Pure, from the log alone.

* *Steps*: the highest step that the attempt before is known to have done (its newest commit, else where it resumed)
  minus the step resumed from. Steps above the newest commit leave no trace, so this is a lower bound. Unknown while no
  resume point is chosen, and when a damaged slot may have held a commit.
* *Seconds*: from the commit of the version resumed from (from the run's first start, when that is not a version of this
  run) to this attempt's start, without what an earlier attempt has counted already and without the pause after an
  attempt that completed. It is the end of the attempt before up to this start, plus what that attempt did in vain; the
  sum over all attempts is the time to which the present state owes nothing. Unknown while no resume point is chosen,
  and when a time in the log cannot be read.

A checkpoint actor that is started again costs neither: training went on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ray_workers.store.catalog import attempt_numbers
from ray_workers.store.run_state import AttemptState, RunState

__all__ = ["Loss", "attempt_losses", "resume_step"]

_Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """None: unknown."""

    steps: int | None
    seconds: float | None


def attempt_losses(state: RunState, origin_step: int | None) -> dict[int, Loss]:
    """The loss of every attempt whose start record is known, by fence.

    Args:
        state: the run.
        origin_step: the step of the version that the run was forked from, if it was and if that is known.
    """
    ledger = _Ledger(state=state, origin_step=origin_step)
    losses: dict[int, Loss] = {}
    for fence in attempt_numbers(state):
        attempt = state.attempts.get(fence)
        if attempt is None:
            ledger.reached = None
        else:
            losses[fence] = ledger.enter(attempt)
    return losses


def resume_step(state: RunState, attempt: AttemptState, origin_step: int | None) -> int | None:
    """The step of the version that `attempt` resumed from; None if there was none, or if it is unknown."""
    if attempt.resume is None:
        return None
    if attempt.resume_origin is not None:
        return origin_step
    version = state.find(attempt.resume)
    return None if version is None else version.step


@dataclass(slots=True, kw_only=True)
class _Ledger:
    """Enter the attempts in the order of their fences."""

    state: RunState
    origin_step: int | None
    first_start: str | None = None
    before: AttemptState | None = None
    reached: int | None = 0
    """The highest step that the attempt before is known to have done; None: unknown."""
    counted: list[_Span] = field(default_factory=list)
    """Time that counts no more: lost by an earlier attempt, or a pause after one that completed."""

    def enter(self, attempt: AttemptState) -> Loss:
        first = self.before is None and self.reached == 0
        self.first_start = self.first_start or attempt.at
        went_on = self.state.writer_before(attempt) is not None
        attempt = self.state.begun(attempt)
        steps, seconds = (0, 0.0) if went_on else (self._steps(attempt), self._seconds(attempt))
        if attempt.resume_at is not None:
            step = self._start_step(attempt)
            self.reached = None if step is None else max(attempt.last_step, step)
        self.before = attempt
        # Before the first attempt nothing was done: a fork's steps belong to the other run.
        return Loss(steps=0, seconds=0.0) if first else Loss(steps=steps, seconds=seconds)

    def _start_step(self, attempt: AttemptState) -> int | None:
        return 0 if attempt.resume is None else resume_step(self.state, attempt, self.origin_step)

    def _steps(self, attempt: AttemptState) -> int | None:
        since = 0 if self.before is None else self.before.fence
        hidden = any(since < slot < attempt.fence for slot in self.state.damaged)
        step = self._start_step(attempt)
        if self.reached is None or hidden or attempt.resume_at is None or step is None:
            return None
        return max(0, self.reached - step)

    def _seconds(self, attempt: AttemptState) -> float | None:
        start, since = _instant(attempt.at), _instant(self._kept_until(attempt))
        if start is None or since is None or attempt.resume_at is None:
            return None
        if self.before is not None and self.before.outcome == "completed":
            ended = _instant(self.before.ended_at)
            self.counted += [] if ended is None else [(ended, start)]
        seconds = _uncovered((since, start), self.counted)
        self.counted.append((since, start))
        return round(seconds, 3)

    def _kept_until(self, attempt: AttemptState) -> str | None:
        """Up to when the work of earlier attempts lives on in what this one starts from."""
        if attempt.resume is None or attempt.resume_origin is not None:
            return self.first_start
        version = self.state.find(attempt.resume)
        return None if version is None else version.at


def _instant(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _uncovered(span: _Span, covered: Sequence[_Span]) -> float:
    """How much of `span` lies in none of `covered`."""
    at, end = span
    free = 0.0
    for low, high in sorted(covered):
        if low > at:
            free += max(0.0, min(low, end) - at)
        at = max(at, high)
    return free + max(0.0, end - at)
