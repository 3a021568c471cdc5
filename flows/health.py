"""The health flow: schedule it, and know before you need it whether every run could come back."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from ray_workers.config import Objectives, Retention
from tasks.dashboard import alert_missed, publish_health
from tasks.health import assess_health
from tasks.scheduled import with_deployed

__all__ = ["health"]


@flow(name="pawl-health", validate_parameters=True)
def health(
    storage: str | None = None,
    objective: Objectives = Objectives(),
    retention: Retention = Retention(),
    accounts: bool = True,
    fail: bool = False,
) -> State[str]:
    """Look at every run of a store, publish one page, and raise an event for all that misses the objective.

    Args:
        storage: Folder, s3://bucket/prefix, or a storage block as pawl-storage/NAME. Empty: PAWL_STORAGE, else ./pawl-store.
        objective: What is promised: most work at risk, longest recovery, most bytes.
        retention: A retention whose effect the page tells; nothing is retired.
        accounts: Also say what is stored: reads every manifest and lists every object.
        fail: End as Failed when the objective is missed, by a run or by the budget, or when a run cannot be read.
    """
    values = with_deployed(locals())
    report = assess_health(
        values["storage"], values["objective"], values["retention"], accounts=values["accounts"]
    )
    publish_health(report)
    alert_missed(report)
    message = f"{report.verdict}: {report.reason}"
    missed = report.verdict != "ready"
    return Failed(message=message) if values["fail"] and missed else Completed(message=message)
