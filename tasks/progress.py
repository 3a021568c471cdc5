"""One progress artifact a run, updated in place while it trains."""

from __future__ import annotations

import logging
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from ray_workers.messages import PawlEvent
from tasks.artifact_keys import artifact_key
from tasks.attempt import Attempt

__all__ = ["ProgressBar"]

_log = logging.getLogger(__name__)


class ProgressBar:
    """Shows epochs done of epochs wanted, as of the newest committed version. Never raises."""

    def __init__(self, attempt: Attempt) -> None:
        self._key = artifact_key("progress", attempt.request.run)
        self._id: UUID | None = None

    def show(self, event: PawlEvent) -> None:
        facts = event.details
        wanted = facts.get("epochs_wanted")
        share = min(100.0, 100.0 * facts["epoch"] / wanted) if wanted else 0.0
        text = f"Version {facts['number']} committed: step {facts['step']}, epoch {facts['epoch']} of {wanted or '?'}"
        try:
            self._write(share, text)
        except Exception as error:  # noqa: BLE001 - a view that cannot be shown must not end training
            _log.warning("The progress artifact could not be written: %s", error)

    def _write(self, share: float, text: str) -> None:
        if self._id is None:
            made = create_progress_artifact(progress=share, key=self._key, description=text)
            self._id = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(artifact_id=self._id, progress=share, description=text)
