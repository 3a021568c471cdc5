"""Validation beside training, as its driver sees it: one process, one version at a time, started anew when it is lost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from ray_workers.messages import PawlEvent
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.store.clock import utc_now
from ray_workers.store.opening import StorageTarget
from ray_workers.validator_actor import Judged, ValidatorActor
from ray_workers.worker_errors import last_line

__all__ = ["ValidationDriver"]

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0
_MOST_LOSSES = 6
"""In a row: then whoever waits for verdicts waits no longer. It takes more than a minute to get there."""


class ValidationDriver:
    """Validates whatever waits for a verdict. `drive` is called by one thread, the rest by any.

    A validator that is lost is started anew, as long as the attempt lasts: after a pause that grows from loss to loss,
    and is short again after the next commit.

    Args:
        timeout_s: longest time for one version.
        on_event: hears each verdict, and of each lost validator.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        target: StorageTarget,
        run: str,
        policy: SoundnessPolicy,
        *,
        timeout_s: float,
        on_event: Callable[[PawlEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = (target, run, policy)
        self._timeout_s = timeout_s
        self._on_event = on_event
        self._actor: Any = None
        self._call: Any = None
        self._clock = clock
        self._since = 0.0
        self._losses = 0
        """In a row, since the newest commit."""
        self._next_try_at = -math.inf
        self._wishes, self._began_with, self._fulfilled = 1, 0, 0
        """Calls of `want`: so many by now, before the present call began, before one began that found nothing to do."""

    def want(self) -> None:
        """There may be a version without a verdict."""
        self._losses = 0
        self._next_try_at = min(self._next_try_at, self._clock() + _FIRST_PAUSE_S)
        self._wishes += 1

    @property
    def _wanted(self) -> bool:
        return self._fulfilled < self._wishes

    @property
    def over(self) -> bool:
        """No version waits for a verdict, or none can be had: the validator was lost again and again."""
        return self._losses >= _MOST_LOSSES or not (self._wanted or self._call is not None)

    def drive(self) -> None:
        """One call at a time; a crash or a time-out costs the validator its process, and training nothing."""
        if self._call is None:
            if not self._wanted or self._clock() < self._next_try_at:
                return
            self._begin()
        if not ray.wait([self._call], timeout=0)[0]:
            if self._clock() - self._since > self._timeout_s:
                self._lose(f"no answer for {self._timeout_s:.0f} s")
            return
        try:
            judged: Judged | None = ray.get(self._call)
        except RayError as error:
            self._lose(last_line(error))
            return
        if judged is None:
            self._fulfilled = self._began_with
        else:
            self._losses = 0
            self._on_event(_verdict(judged))
        self._call = None

    def _begin(self) -> None:
        self._actor = self._actor or ValidatorActor.remote(*self._start)  # type: ignore[attr-defined]
        # What is committed from here on may be too late for this call.
        self._began_with = self._wishes
        self._call, self._since = self._actor.validate_next.remote(), self._clock()

    def kill(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    def _lose(self, why: str) -> None:
        self.kill()
        self._losses += 1
        pause_s = _pause_s(self._losses)
        self._next_try_at = self._clock() + pause_s
        self._actor = self._call = None
        text = f"Validation failed and is tried again in {pause_s:.0f} s ({self._losses}): {why}"
        self._on_event(PawlEvent(kind="validator_lost", message=text, at=utc_now()))


def _pause_s(losses: int) -> float:
    return min(_FIRST_PAUSE_S * 2.0 ** min(losses - 1, 30), _LONGEST_PAUSE_S)


def _verdict(judged: Judged) -> PawlEvent:
    if judged.reason is not None:
        text = f"Version {judged.number} (step {judged.step}) is quarantined: {judged.reason}"
    elif judged.problem is not None:
        text = f"Version {judged.number} (step {judged.step}) stays {judged.rung}: {judged.problem}"
    else:
        text = f"Version {judged.number} (step {judged.step}) is {judged.rung}"
    details = {
        "number": judged.number,
        "rung": judged.rung,
        "reason": judged.reason or judged.problem,
    }
    return PawlEvent(kind="verdict", message=text, at=utc_now(), details=details)
