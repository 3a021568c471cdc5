"""The health page: one artifact that tells an operator in ten seconds whether everything could come back; and its alert."""

from __future__ import annotations

from collections.abc import Iterator

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_run_logger

from ray_workers.health_facts import BUDGET_SPENT, HealthReport
from tasks.health_page import render_health

__all__ = ["ARTIFACT_KEY", "MISSED_EVENT", "STORE_RESOURCE", "alert_missed", "publish_health"]

ARTIFACT_KEY = "pawl-health"
MISSED_EVENT = "pawl.objective.missed"
STORE_RESOURCE = "pawl.store"
"""Whose budget is spent."""


@task(cache_policy=NO_CACHE, task_run_name="publish-health")
def publish_health(report: HealthReport) -> None:
    """One artifact under one key, so that the newest page is always in the same place."""
    page = render_health(report)
    create_markdown_artifact(page.markdown, key=ARTIFACT_KEY, description=page.headline)
    get_run_logger().info("%s: %s", report.verdict, report.reason)


@task(cache_policy=NO_CACHE, task_run_name="alert-missed")
def alert_missed(report: HealthReport) -> int:
    """An event for everything that misses the objective, for automations to act on; how many.

    One for each run, also for one that cannot be read; one for the store when its budget is spent.
    """
    missed = list(_missed(report))
    for resource, name, verdict, reason in missed:
        emit_event(
            MISSED_EVENT,
            resource={"prefect.resource.id": resource, "prefect.resource.name": name},
            payload={"store": report.url, "verdict": verdict, "reason": reason},
        )
    return len(missed)


def _missed(report: HealthReport) -> Iterator[tuple[str, str, str, str]]:
    """Resource, its name, verdict, reason."""
    for run, why in report.unreadable:
        yield f"pawl.run.{run}", run, "critical", why
    for health in report.missed:
        yield f"pawl.run.{health.run}", health.run, health.verdict, health.reason
    if report.over_budget:
        yield STORE_RESOURCE, report.url, "warning", BUDGET_SPENT
