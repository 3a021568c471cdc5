"""The drill flow: schedule it, and how long coming back takes is measured before you need it."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from ray_workers.config import Drilling, Validation
from tasks.drilling import carry_out_drills, plan_drills, publish_drills
from tasks.scheduled import with_deployed

__all__ = ["drill"]


@flow(name="pawl-drill", validate_parameters=True)
def drill(
    versions: list[str] | None = None,
    storage: str | None = None,
    drilling: Drilling = Drilling(),
    validation: Validation = Validation(),
    entrypoint: str | None = None,
    ray_address: str | None = None,
    cluster: str | None = None,
    code_dir: str | None = None,
) -> State[None]:
    """Restore versions on fresh workers as a resume would, take one step, compare, and record what it took.

    Args:
        versions: RUN or RUN@V, as RUN@sound; RUN@best goes by the loss. Empty: a version of every run that can be drilled.
        storage: Folder, s3://bucket/prefix, or a storage block as pawl-storage/NAME. Empty: PAWL_STORAGE, else ./pawl-store.
        drilling: Which versions, how many, how long.
        validation: For a version that is not sound yet: it is validated first. Its probe_tolerance also bounds how far losses may differ.
        entrypoint: The training loop as module:function. Empty: the one that made the version.
        ray_address: A Ray cluster to join from one of its nodes. Empty: start one on this machine.
        cluster: Name of a cluster block, as in pawl-cluster/main, instead of an address.
        code_dir: The project folder that holds the entrypoint. Empty: the current folder.
    """
    plan = plan_drills(with_deployed(locals()))
    report = carry_out_drills(plan)
    publish_drills(report)
    return Failed(message=report.headline) if report.failed else Completed(message=report.headline)
