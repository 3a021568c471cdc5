"""The training flow: one attempt of a run that cannot be lost."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from ray_workers.config import Retention, Saving, Scaling, Validation
from tasks.asset import record_asset
from tasks.attempt import describe_request, take_fence
from tasks.cancelling import stop_job_left_behind
from tasks.ending import ended_properly
from tasks.lineage import record_lineage
from tasks.registry import refresh_registry
from tasks.resume import find_resume_point
from tasks.retention import apply_retention
from tasks.training import run_training

__all__ = ["train"]


@flow(
    name="pawl-train",
    retries=3,
    retry_delay_seconds=5,
    validate_parameters=True,
    on_cancellation=[stop_job_left_behind],
)
def train(
    entrypoint: str,
    config: dict[str, Any] = {},  # noqa: B006 - only read; in Prefect's run form "dict or None" would have no field to type in
    run: str | None = None,
    storage: str | None = None,
    scaling: Scaling = Scaling(),
    saving: Saving = Saving(),
    validation: Validation = Validation(),
    retention: Retention = Retention(),
    resume: str = "auto",
    takeover: bool = False,
    code_dir: str | None = None,
) -> State[Any]:
    """Train a model, save it as it goes, and resume from the newest version that passed validation.

    Args:
        entrypoint: The training loop as module:function, importable from code_dir.
        config: Hyperparameters for the loop. Stored with every version; never put secrets here.
        run: Name of the run. The same name continues the same run. Empty: the flow run's own id.
        storage: Folder, s3://bucket/prefix, or a storage block as pawl-storage/NAME. Empty: PAWL_STORAGE, else ./pawl-store.
        scaling: How many workers, of what size, on which Ray cluster.
        saving: When to save, and what happens when saving fails.
        validation: How far a version must be trusted before training resumes from it.
        retention: Which versions to keep.
        resume: 'auto' (newest trusted version), 'never' (start over), or RUN@VERSION (roll back, or fork another run).
        takeover: End another attempt that still trains under this run name.
        code_dir: The project folder that holds the entrypoint. Empty: the current folder.
    """
    request = describe_request(locals())
    attempt = take_fence(request)
    with ended_properly(attempt) as ending:
        if attempt.trains:
            resume_point = find_resume_point(attempt)
            run_training(attempt, resume_point)
            ending.retention = apply_retention(attempt)
            record_asset(attempt)
    record_lineage(attempt, ending.retention)
    refresh_registry(attempt)
    return ending.state
