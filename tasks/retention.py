"""Apply the run's retention: the plan first, for everybody to see, then Retire in the log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.messages import PawlEvent
from ray_workers.policies.retention import RetentionPlan
from ray_workers.policies.thinning_text import policy_of
from ray_workers.retiring import plan_retention, retire
from ray_workers.store.errors import PawlError
from ray_workers.store.log import RunLog
from tasks.attempt import Attempt

__all__ = ["apply_retention", "retention_while_training"]

_PAUSE_S = 60.0
"""Between two looks while training goes on: each reads the run's log."""

Tell = Callable[[str], None]


@task(cache_policy=NO_CACHE, task_run_name="apply-retention")
def apply_retention(attempt: Attempt) -> tuple[str, ...]:
    """Retire what no rule keeps; what was planned and done, as lines for the lineage page.

    Retiring takes nothing away yet: bytes stay until they are condemned and swept. A store that does not let us costs
    the finished training nothing: that nothing was retired is the answer.
    """
    if attempt.request.retention.keeps_everything or attempt.finished is not None:
        return ()
    logger = get_run_logger()
    return _retire(attempt, logger.info, logger.warning, quiet=False)


def retention_while_training(
    attempt: Attempt, *, clock: Callable[[], float] = time.monotonic
) -> Callable[[PawlEvent], None]:
    """What hears of each verdict and then retires what no rule keeps, so that a run of months holds what it may hold.

    It reads and writes the store: for a thread that nobody waits for. Between two looks a minute passes at least.

    Args:
        attempt: whose run and rules.
        clock: seconds that only go up.
    """
    logger = get_run_logger()  # taken here, in the flow's context
    next_at = -math.inf

    def hear(event: PawlEvent) -> None:
        nonlocal next_at
        if event.kind == "verdict" and clock() >= next_at:
            next_at = clock() + _PAUSE_S
            _retire(attempt, logger.info, logger.warning, quiet=True)

    return (lambda _: None) if attempt.request.retention.keeps_everything else hear


def _retire(attempt: Attempt, tell: Tell, warn: Tell, *, quiet: bool) -> tuple[str, ...]:
    """The plan told, then carried out. `quiet`: what stays is not told, nor that nothing goes."""
    lines: tuple[str, ...] = ()
    try:
        log, plan = _plan(attempt)
        lines = (() if quiet else _kept(plan)) + (_gone(plan) if plan.retire or not quiet else ())
        for line in lines:
            tell(line)
        retire(log, plan, reason="retention of the flow run")
    except PawlError as error:
        warn(f"Nothing was retired: {error.message}")
        return (*lines, f"Nothing was retired: {error.message}")
    return lines


def _plan(attempt: Attempt) -> tuple[RunLog, RetentionPlan]:
    request = attempt.request
    store = request.target.open().store
    log = RunLog(store, request.run, by=attempt.by, patience_s=60.0)
    return log, plan_retention(store, log.state, policy_of(request.retention))


def _kept(plan: RetentionPlan) -> tuple[str, ...]:
    return tuple(f"keep version {v.number}: {v.reason}" for v in plan.keep)


def _gone(plan: RetentionPlan) -> tuple[str, ...]:
    gone = tuple(f"retire version {number}: no rule keeps it" for number in plan.retire)
    return (*gone, f"{len(plan.retire)} versions, {plan.bytes_retired / 1e6:.2f} MB")
