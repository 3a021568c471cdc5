"""Validation beside training, as its driver sees it: one process, one version at a time, started anew when it is lost."""

from __future__ import annotations

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

__all__ = ["ValidationDriver"]

_TRIES = 3


class ValidationDriver:
    """Validates whatever waits for a verdict. `drive` is called by one thread, the rest by any.

    Args:
        timeout_s: longest time for one version.
        on_event: hears each verdict, and of each lost validator.
    """

    def __init__(
        self,
        target: StorageTarget,
        run: str,
        policy: SoundnessPolicy,
        *,
        timeout_s: float,
        on_event: Callable[[PawlEvent], None],
    ) -> None:
        self._start = (target, run, policy)
        self._timeout_s = timeout_s
        self._on_event = on_event
        self._actor: Any = None
        self._call: Any = None
        self._since = 0.0
        self._failures = 0
        self._wanted = True

    def want(self) -> None:
        """There may be a version without a verdict."""
        self._wanted = True

    @property
    def over(self) -> bool:
        """No version waits for a verdict, or none can be had: the validator was lost too often."""
        return self._failures >= _TRIES or (not self._wanted and self._call is None)

    def drive(self) -> None:
        """One call at a time; a crash or a time-out costs the validator its process, and training nothing."""
        if self._failures >= _TRIES:
            return
        if self._call is None and self._wanted:
            self._actor = self._actor or ValidatorActor.remote(*self._start)  # type: ignore[attr-defined]
            self._call, self._since = self._actor.validate_next.remote(), time.monotonic()
        if self._call is None:
            return
        if not ray.wait([self._call], timeout=0)[0]:
            if time.monotonic() - self._since > self._timeout_s:
                self._lose(f"no answer for {self._timeout_s:.0f} s")
            return
        call, self._call = self._call, None
        try:
            judged: Judged | None = ray.get(call)
        except RayError as error:
            self._lose(str(error).strip().splitlines()[-1])
            return
        self._wanted = judged is not None
        if judged is not None:
            self._failures = 0
            self._on_event(_verdict(judged))

    def kill(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    def _lose(self, why: str) -> None:
        self.kill()
        self._actor, self._call, self._failures = None, None, self._failures + 1
        text = f"Validation failed and is tried again ({self._failures}): {why}"
        self._on_event(PawlEvent(kind="validator_lost", message=text, at=utc_now()))


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
