"""What a flow run of Pawl's is owed that no automation answered: Prefect forgets waits that ran out while its server was down.

Prefect's server deletes, at its start, each wait of an automation that ended more than a minute before, without acting on
it. A run that died meanwhile would stay Running, and one that had crashed shortly before Crashed, for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType

from deployments.automations import JOB_MAY_GO_ON, ComeBack

__all__ = ["LOOK_BACK", "Overdue", "SeenRun", "Step"]

LOOK_BACK = timedelta(days=7)
"""A run that has been Crashed for longer is left: by default Prefect no longer knows whether it was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRun:
    """A flow run with Pawl's tag as a look at the server found it. Two equal looks: it gave no sign in between."""

    id: UUID
    name: str
    state: StateType
    since: datetime
    """When it came into this state."""
    last_sign: datetime
    """Of its newest event, a heartbeat or any other; not before `since`."""
    tries: int
    has_deployment: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A state to propose to Prefect, which may refuse it."""

    state: StateType
    message: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """What the automations of `rules` would have done by now.

    Args:
        rules: how often, how soon, and after what silence a run is brought back.
        given_up: runs that were given up, and somebody told: a higher number of tries does not bring these back.
    """

    rules: ComeBack
    given_up: frozenset[UUID] = frozenset()

    def steps(self, run: SeenRun, now: datetime) -> tuple[Step, ...]:
        """The states that bring `run` on, in order; none for a run to be left alone.

        Whatever a person may have ended, and a run without a deployment, which nobody could start again, is left alone.
        """
        if not run.has_deployment:
            return ()
        silence, age = now - run.last_sign, now - run.since
        if run.state == StateType.RUNNING and silence > self._lost_after:
            return self._crashed(run, f"No heartbeat for {silence.total_seconds():.0f} seconds.")
        if run.state == StateType.PENDING and age > self._stuck_after:
            return self._crashed(run, "Taken by a worker, but never begun.")
        if run.state == StateType.CANCELLING and age > self._stuck_after:
            return (
                Step(
                    state=StateType.CANCELLED,
                    message=f"Cancelled; nobody was left to say so. {JOB_MAY_GO_ON}",
                ),
            )
        if run.state == StateType.CRASHED and self._wait(run) < age < LOOK_BACK:
            return self._again(run)
        return ()

    def _crashed(self, run: SeenRun, message: str) -> tuple[Step, ...]:
        return (Step(state=StateType.CRASHED, message=message), *self._again(run))

    def _again(self, run: SeenRun) -> tuple[Step, ...]:
        if run.tries >= self.rules.max_runs or run.id in self.given_up:
            return ()
        message = f"Crashed, unanswered; try {_next_try(run)} of {self.rules.max_runs}."
        return (Step(state=StateType.SCHEDULED, name="AwaitingRetry", message=message),)

    def _wait(self, run: SeenRun) -> timedelta:
        return timedelta(seconds=self.rules.wait_before(_next_try(run)))

    @property
    def _lost_after(self) -> timedelta:
        return timedelta(seconds=self.rules.lost_after_seconds)

    @property
    def _stuck_after(self) -> timedelta:
        return timedelta(seconds=self.rules.stuck_after_seconds)


def _next_try(run: SeenRun) -> int:
    """A run that never began has had its first try as well."""
    return max(run.tries, 1) + 1
