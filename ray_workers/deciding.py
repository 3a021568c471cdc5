"""The books of one session: what was saved, what became of it, how long it took; and on rank 0 the decision for all.

Every rank keeps them alike; only rank 0 looks at clocks and at what the driver asks for (`decisions`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ray_workers.context import TrainingContext
from ray_workers.decisions import Decision
from ray_workers.interval_controller import IntervalController
from ray_workers.messages import DriverNews, StopRequest, VersionOutcome
from ray_workers.policies.agreement import AgreementPace
from ray_workers.policies.last_save import LastSave
from ray_workers.policies.save_interval import SaveFacts
from ray_workers.saver import Saver

__all__ = ["Decider"]


class Decider:
    """Args as of the session; `step` and `epoch` are where training begins."""

    def __init__(
        self, context: TrainingContext, saver: Saver, *, step: int, epoch: int, committed_step: int
    ) -> None:
        self._context = context
        self._saver = saver
        self._interval = IntervalController(context.interval) if context.interval else None
        self._pace = AgreementPace()
        self._first_step = step
        self._began = self._saved_at = time.monotonic()
        self._news: int | None = None
        self._asked: StopRequest | None = None
        self._persist_s: float | None = None
        self.saved_step, self.saved_epoch = step, epoch
        """Where the last save was staged, or training began."""
        self.committed_step = committed_step
        """The newest step known to be a version; -1: none."""
        self.committed = False
        """This attempt made a version."""
        self.stop: str | None = None
        """Why the attempt must end, as far as the saves told."""

    @property
    def interrupted_by(self) -> str | None:
        """What asked for the end, on rank 0, when something did."""
        return None if self._asked is None else self._asked.cause or self._asked.reason

    @property
    def pace(self) -> dict[str, float]:
        """What the interval is chosen from, for the version that is made now; seconds."""
        return {} if self._interval is None else self._interval.seconds()

    def stepped(self) -> None:
        """A step ended."""
        if self._interval is not None:
            self._interval.stepped(beside=self._saver.in_flight or self._driver_says.validating)

    @property
    def _driver_says(self) -> DriverNews:
        """Only rank 0 chooses the interval, and only it asks its node's agent."""
        return self._context.pipeline.news() if self._context.rank == 0 else DriverNews()

    def hear(self, outcomes: Sequence[VersionOutcome]) -> None:
        for outcome in outcomes:
            self.stop = self.stop or outcome.stop
            self._persist_s = max(self._persist_s or 0.0, outcome.persist_s or 0.0) or None
            if self._interval is not None:
                self._interval.heard(outcome)
            if outcome.number is not None:
                self.committed_step = max(self.committed_step, outcome.step)
                self._news = outcome.number
                self.committed = True

    def staged(self, step: int, epoch: int) -> None:
        self.saved_step, self.saved_epoch = step, epoch
        self._saved_at = time.monotonic()

    def due(self, step: int, epoch: int) -> bool:
        """Whether it is time for a save: a threshold, or the interval, whichever comes first."""
        if self._saver.in_flight or step <= self.saved_step:
            return False
        seconds = time.monotonic() - self._saved_at
        facts = SaveFacts(
            step=step,
            epoch=epoch,
            seconds=seconds,
            last_step=self.saved_step,
            last_epoch=self.saved_epoch,
        )
        if self._context.thresholds.due(facts) is not None:
            return True
        if self._interval is None:
            return False
        self._interval.hear_rate(self._driver_says.rate)
        return self._interval.due(seconds)

    def decision(self, step: int, *, save: bool, last: bool) -> Decision | None:
        """Rank 0's; None elsewhere.

        Args:
            step: steps done.
            save: a save is due.
            last: there is something to save if the attempt is interrupted here.
        """
        if self._context.rank != 0:
            return None
        news, self._news = self._news, None
        asked = StopRequest(reason=self.stop) if self.stop else None
        self._asked = asked = asked or self._context.pipeline.stop_request()
        next_step = self._next_step(step)
        if asked is None:
            return Decision(next_step=next_step, save=save, announce=news)
        if asked.reason != "interrupted":
            return Decision(next_step=next_step, stop=asked.reason, announce=news)
        rule = LastSave()
        fits = rule.fits(
            grace_s=asked.grace_s, persist_s=self._persist_s, flights=self._saver.flights
        )
        return Decision(
            next_step=next_step,
            save=last and fits,
            stop=asked.reason,
            grace_s=rule.wait_s(grace_s=asked.grace_s),
            announce=news,
        )

    def later(self, next_step: int) -> Decision | None:
        """That nothing happens before the ranks meet at `next_step`; None elsewhere than on rank 0."""
        return Decision(next_step=next_step) if self._context.rank == 0 else None

    def _next_step(self, step: int) -> int:
        done = step - self._first_step
        step_s = (time.monotonic() - self._began) / done if done else 0.0
        paced = step + self._pace.steps_between(step_s)
        multiple = self._context.thresholds.next_multiple(step)
        return paced if multiple is None else min(paced, multiple)
