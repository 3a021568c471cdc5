"""The health page: one artifact that tells an operator in ten seconds whether everything could come back; and its alert."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_run_logger

from ray_workers.health_facts import HealthReport
from tasks.health_page import render_health

__all__ = ["ARTIFACT_KEY", "MISSED_EVENT", "alert_missed", "publish_health"]

ARTIFACT_KEY = "pawl-health"
MISSED_EVENT = "pawl.objective.missed"


@task(cache_policy=NO_CACHE, task_run_name="publish-health")
def publish_health(report: HealthReport) -> None:
    """One artifact under one key, so that the newest page is always in the same place."""
    page = render_health(report)
    create_markdown_artifact(page.markdown, key=ARTIFACT_KEY, description=page.headline)
    get_run_logger().info("%s: %s", report.verdict, report.reason)


@task(cache_policy=NO_CACHE, task_run_name="alert-missed")
def alert_missed(report: HealthReport) -> int:
    """An event for every run that does not meet the objective, for automations to act on; how many."""
    for run in report.missed:
        emit_event(
            MISSED_EVENT,
            resource={
                "prefect.resource.id": f"pawl.run.{run.run}",
                "prefect.resource.name": run.run,
            },
            payload={"store": report.url, "verdict": run.verdict, "reason": run.reason},
        )
    return len(report.missed)
