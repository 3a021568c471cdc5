"""Apply the run's retention: the plan first, for everybody to see, then Retire in the log."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.policies.retention import RetentionPlan
from ray_workers.policies.thinning_text import policy_of
from ray_workers.retiring import plan_retention, retire
from ray_workers.store.errors import PawlError
from ray_workers.store.log import RunLog
from tasks.attempt import Attempt

__all__ = ["apply_retention"]


@task(cache_policy=NO_CACHE, task_run_name="apply-retention")
def apply_retention(attempt: Attempt) -> tuple[str, ...]:
    """Retire what no rule keeps; what was planned and done, as lines for the lineage page.

    Retiring takes nothing away yet: bytes stay until they are condemned and swept.
    """
    request, logger = attempt.request, get_run_logger()
    if request.retention.keeps_everything or attempt.finished is not None:
        return ()
    policy = policy_of(request.retention)
    store = request.target.open().store
    log = RunLog(store, request.run, by=attempt.by, patience_s=60.0)
    plan = plan_retention(store, log.state, policy)
    lines = _lines(plan)
    for line in lines:
        logger.info(line)
    try:
        retire(log, plan, reason="retention of the flow run")
    except PawlError as error:
        logger.warning("Nothing was retired: %s", error.message)
        return (*lines, f"Nothing was retired: {error.message}")
    return lines


def _lines(plan: RetentionPlan) -> tuple[str, ...]:
    kept = tuple(f"keep version {v.number}: {v.reason}" for v in plan.keep)
    gone = tuple(f"retire version {number}: no rule keeps it" for number in plan.retire)
    return (*kept, *gone, f"{len(plan.retire)} versions, {plan.bytes_retired / 1e6:.2f} MB")
