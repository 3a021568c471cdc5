"""Bring the run's file of the registry up to its log."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.attempt import Attempt

__all__ = ["refresh_registry"]


@task(cache_policy=NO_CACHE, task_run_name="refresh-registry")
def refresh_registry(attempt: Attempt) -> None:
    """Write what the log says now. The registry is a view: if that fails, the run has not."""
    from ray_workers.store.registry import refresh_run  # noqa: PLC0415 - loads pyarrow

    try:
        done = refresh_run(attempt.request.target.open().store, attempt.request.run)
    except Exception as error:  # noqa: BLE001 - a view that cannot be written must not end a run
        get_run_logger().warning("The registry could not be refreshed: %s", error)
        return
    get_run_logger().info("The registry has all %d versions of this run", done.versions)
