"""Look at every run of a store."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ray_workers.config import Objectives, Retention
from ray_workers.health_facts import HealthReport, look_at_root
from ray_workers.health_values import Objective
from ray_workers.policies.thinning_text import policy_of
from ray_workers.store.object_store import ObjectStore
from tasks.blocks import storage_target

__all__ = ["assess_health"]


@task(cache_policy=NO_CACHE, task_run_name="assess-health", persist_result=False)
def assess_health(
    storage: str | None, objective: Objectives, retention: Retention, *, accounts: bool
) -> HealthReport:
    """The report; also brings the registry up to the logs, as far as the store lets us write."""
    store = storage_target(storage).open().store
    _refresh_registry(store)
    budget = objective.budget_gb
    return look_at_root(
        store,
        Objective(
            at_risk_s=60 * objective.at_risk_minutes,
            recovery_s=60 * objective.recovery_minutes,
            budget_bytes=None if budget is None else round(budget * 1e9),
        ),
        retention=None if retention.keeps_everything else policy_of(retention),
        storage=accounts,
    )


def _refresh_registry(store: ObjectStore) -> None:
    from ray_workers.store.registry import refresh_all  # noqa: PLC0415 - loads pyarrow

    try:
        refresh_all(store)
    except Exception as error:  # noqa: BLE001 - a view that cannot be written must not hide the health
        get_run_logger().warning("The registry could not be refreshed: %s", error)
