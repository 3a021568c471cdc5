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
_TRUSTED = ("sound", "restorable")


class ProgressBar:
    """Shows epochs done of epochs wanted, loss and the newest sound version, at each commit and verdict. Never raises."""

    def __init__(self, attempt: Attempt) -> None:
        self._key = artifact_key("progress", attempt.request.run)
        self._id: UUID | None = None
        self._done = 0.0
        self._text = ""
        self._sound = "none of this attempt's versions is validated yet"

    def show(self, event: PawlEvent) -> None:
        if event.kind == "verdict":
            if event.details.get("reason") is None and event.details.get("rung") in _TRUSTED:
                self._sound = f"version {event.details['number']} is sound"
        else:
            self._done, self._text = _share(event), _sentence(event)
        if not self._text:
            return
        try:
            self._write(self._done, f"{self._text}; {self._sound}")
        except Exception as error:  # noqa: BLE001 - a view that cannot be shown must not end training
            _log.warning("The progress artifact could not be written: %s", error)

    def _write(self, share: float, text: str) -> None:
        if self._id is None:
            made = create_progress_artifact(progress=share, key=self._key, description=text)
            self._id = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(artifact_id=self._id, progress=share, description=text)


def _share(event: PawlEvent) -> float:
    wanted = event.details.get("epochs_wanted")
    return min(100.0, 100.0 * event.details["epoch"] / wanted) if wanted else 0.0


def _sentence(event: PawlEvent) -> str:
    facts = event.details
    loss = (facts.get("metrics") or {}).get("loss")
    return (
        f"Version {facts['number']} committed: step {facts['step']}, epoch {facts['epoch']} of "
        f"{facts.get('epochs_wanted') or '?'}" + (f", loss {loss:.4g}" if loss is not None else "")
    )
