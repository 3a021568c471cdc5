"""What of a deployment on the server is its user's: deploying the file again leaves it as it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["concurrency_of", "with_kept", "without_templates"]

_ENV = "env"
_WITHDRAWN = {
    "train": {"limit": 4, "collision_strategy": "ENQUEUE"},
    "promote": {"limit": 1, "collision_strategy": "ENQUEUE"},
}
"""Limits that an older `prefect.yaml` set: with one, Prefect ends a run when its server restarts, or while it is paused."""


def with_kept(
    entry: Mapping[str, Any], found: DeploymentResponse, known: Collection[str]
) -> dict[str, Any]:
    """The file's `entry` as it is to be deployed over `found`.

    The user's are the values of parameters, the concurrency limit or that there is none, the work queue, whether the deployment is paused, and
    every schedule: none is deployed again. What the file names and the server lacks is added. In `job_variables` the file
    wins, because Pawl's automations build on the heartbeat set there; what else the user put there stays.

    Args:
        entry: one deployment of the file.
        found: the same on the server.
        known: the parameters that the flow has; others, as of an older Pawl, are dropped.
    """
    merged = {key: value for key, value in entry.items() if key != "schedules"}
    parameters = {**(entry.get("parameters") or {}), **found.parameters}
    merged["parameters"] = {name: value for name, value in parameters.items() if name in known}
    merged["paused"] = found.paused
    limit = concurrency_of(found)
    merged["concurrency_limit"] = None if limit == _WITHDRAWN.get(entry["name"]) else limit
    merged["work_pool"] = _pool(entry.get("work_pool") or {}, found)
    return merged


def concurrency_of(found: DeploymentResponse) -> dict[str, Any] | None:
    """As a deployment file has it; None without a limit."""
    if found.global_concurrency_limit is None:
        return None
    options = found.concurrency_options
    kept = {} if options is None else options.model_dump(mode="json", exclude_none=True)
    return {"limit": found.global_concurrency_limit.limit, **kept}


def without_templates(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those that `prefect deploy` would fill in: on the server their placeholders wait for a run."""
    return {name: value for name, value in values.items() if "{{" not in json.dumps(value)}


def _pool(pool: Mapping[str, Any], found: DeploymentResponse) -> dict[str, Any]:
    wanted = pool.get("job_variables") or {}
    variables = {**found.job_variables, **wanted}
    if _ENV in variables:
        variables[_ENV] = {**(found.job_variables.get(_ENV) or {}), **(wanted.get(_ENV) or {})}
    kept = {**pool, "job_variables": variables}
    if found.work_queue_name and found.work_pool_name == pool.get("name"):
        kept["work_queue_name"] = found.work_queue_name
    return kept
