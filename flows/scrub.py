"""The scrub flow: schedule it, and rot is found while another version still holds."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from tasks.scheduled import with_deployed
from tasks.scrubbing import publish_scrub, scrub_runs

__all__ = ["scrub"]


@flow(name="pawl-scrub", validate_parameters=True)
def scrub(
    storage: str | None = None, runs: list[str] | None = None, bytes_per_second: float = 50e6
) -> State[None]:
    """Read every kept version again, the one looked at longest ago first, and quarantine what rotted.

    Args:
        storage: Folder, s3://bucket/prefix, or a storage block as pawl-storage/NAME. Empty: PAWL_STORAGE, else ./pawl-store.
        runs: Names of the runs. Empty: every run of the storage.
        bytes_per_second: Mean rate that reading does not exceed.
    """
    values = with_deployed(locals())
    report = scrub_runs(values["storage"], values["runs"], values["bytes_per_second"])
    publish_scrub(report)
    return Failed(message=report.headline) if report.bad else Completed(message=report.headline)
