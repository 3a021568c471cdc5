"""Find the version to resume from: recorded, read back and digested before training starts."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.messages import ResumePoint
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.resume import choose
from ray_workers.store.log import RunLog
from tasks.attempt import Attempt
from tasks.events import announce

__all__ = ["find_resume_point"]


@task(cache_policy=NO_CACHE, task_run_name="find-resume-point")
def find_resume_point(attempt: Attempt) -> ResumePoint | None:
    """The newest version at or above the required rung that holds up now; None: start from nothing.

    Raises:
        FenceLostError: a newer attempt took over meanwhile.
    """
    if attempt.job is not None:
        return None  # the job chose when it began
    request, logger = attempt.request, get_run_logger()
    store = request.target.open().store
    log = RunLog(store, request.run, by=attempt.by, patience_s=120.0)
    choice = choose(
        store,
        log,
        attempt.fence,
        required=request.validation.required,
        policy=SoundnessPolicy.of(request.validation),
        tell=logger.info,
    )
    point = choice.point
    if point is None:
        logger.info("Run %s starts from nothing", request.run)
    else:
        logger.info(
            "Resuming from version %d of run %s: step %d, %s",
            point.name.number,
            point.run,
            point.step,
            point.rung,
        )
        announce(
            "pawl.run.resumed",
            request.run,
            request.identity,
            {
                "number": point.name.number,
                "step": point.step,
                "rung": point.rung,
                "from_run": point.run,
                "passed_over": len(choice.passed_over),
            },
        )
    return point
