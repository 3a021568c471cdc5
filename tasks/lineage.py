"""The lineage artifact: one per run on the flow run's page, written again in place as the run goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.exceptions import PrefectHTTPStatusError

from ray_workers.interval_account import account_of
from ray_workers.interval_facts import read_history
from ray_workers.policies.failure_rate import Evidence
from ray_workers.report_builder import build_report
from ray_workers.store.catalog import VersionCatalog
from ray_workers.store.object_store import ObjectStore
from tasks.artifact_keys import artifact_key
from tasks.attempt import Attempt
from tasks.lineage_page import LineagePage, render

__all__ = ["LineagePublisher", "record_lineage"]

_SECONDS_BETWEEN = 10.0
_log = logging.getLogger(__name__)


class LineagePublisher:
    """Publishes the run's lineage as it stands in the log. A view: if it fails, training does not.

    Args:
        elsewhere: failures of other runs, that the interval takes into account.
    """

    def __init__(self, attempt: Attempt, elsewhere: Sequence[Evidence] = ()) -> None:
        self._elsewhere = elsewhere
        self._request = attempt.request
        self._key = artifact_key("lineage", attempt.request.run)
        self._published = 0.0
        self._lock = threading.Lock()
        self._catalog: VersionCatalog | None = None
        self._known: UUID | None = None
        """The artifact of this flow run."""

    def publish_soon(self) -> None:
        """Publish unless that was done a moment ago."""
        if time.monotonic() - self._published >= _SECONDS_BETWEEN:
            self.publish()

    def publish(self, retention: tuple[str, ...] = ()) -> None:
        """Write the artifact of this flow run anew. Never raises."""
        self._published = time.monotonic()
        try:
            with self._lock:
                store = self._request.target.open().store
                self._catalog = self._catalog or VersionCatalog(store, self._request.run)
                report = build_report(
                    store, self._request.run, retention=retention, catalog=self._catalog
                )
                page = render(replace(report, interval=self._interval(store)))
                self._write(page)
        except Exception as error:  # noqa: BLE001 - a view that cannot be shown must not end training
            _log.warning("The lineage artifact could not be written: %s", error)

    def _interval(self, store: ObjectStore) -> tuple[tuple[str, str], ...]:
        history = read_history(store, self._request.run, catalog=self._catalog)
        return tuple(account_of(history, self._request.saving, self._elsewhere).lines())

    def _write(self, page: LineagePage) -> None:
        flow_run_id = UUID(self._request.identity.flow_run_id)
        with get_client(sync_client=True) as client:
            self._known = self._known or self._found(client, flow_run_id)
            if self._known is not None:
                change = ArtifactUpdate(data=page.markdown, description=page.headline)
                try:
                    client.update_artifact(self._known, change)
                except PrefectHTTPStatusError as error:
                    if error.response.status_code != HTTPStatus.NOT_FOUND:
                        raise
                    self._known = None  # somebody deleted it
                else:
                    return
            made = client.create_artifact(
                ArtifactCreate(
                    key=self._key,
                    type="markdown",
                    description=page.headline,
                    data=page.markdown,
                    flow_run_id=flow_run_id,
                )
            )
            self._known = made.id

    def _found(self, client: SyncPrefectClient, flow_run_id: UUID) -> UUID | None:
        """The artifact that an earlier try of this flow run wrote. Prefect sends the whole page with it, so this is asked once."""
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                key=ArtifactFilterKey(any_=[self._key]),
                flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]),
            )
        )
        return found[0].id if found else None


@task(cache_policy=NO_CACHE, task_run_name="record-lineage")
def record_lineage(attempt: Attempt, retention: tuple[str, ...] = ()) -> None:
    """Publish the lineage when the attempt's end is in the log, so that the page shows how it ended."""
    LineagePublisher(attempt).publish(retention)
