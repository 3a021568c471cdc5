"""The maintenance flow: schedule it, and storage stays as small as the retention allows."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from ray_workers.config import Retention
from tasks.maintenance import carry_out, plan_runs, publish_plan
from tasks.scheduled import with_deployed

__all__ = ["maintain"]


@flow(name="pawl-maintain", validate_parameters=True)
def maintain(
    storage: str | None = None,
    runs: list[str] | None = None,
    retention: Retention = Retention(),
    grace: str = "24h",
    dry_run: bool = False,
) -> State[None]:
    """Publish what would be retired and deleted, and then do it.

    Args:
        storage: Folder, s3://bucket/prefix, or a storage block as pawl-storage/NAME. Empty: PAWL_STORAGE, else ./pawl-store.
        runs: Names of the runs. Empty: every run of the storage.
        retention: Which versions to keep. Nothing set: retire nothing, only sweep.
        grace: How long a version stays retired before its bytes may go: 36h, 7d.
        dry_run: Only publish the plan.
    """
    values = with_deployed(locals())
    storage = values["storage"]
    plans = plan_runs(storage, values["runs"], values["retention"], values["grace"])
    publish_plan(plans)
    if values["dry_run"]:
        return Completed(message=f"Planned: {plans.headline}. Nothing was changed")
    done = carry_out(storage, plans)
    return Failed(message=done.message) if done.failed else Completed(message=done.message)
