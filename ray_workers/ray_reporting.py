"""Tells Ray Train of committed versions: metrics and a pointer checkpoint, from a thread of its own.

`ray.train.report` is a barrier and may take seconds, and after one caught error it can hang for ever: so it is never
called by the training thread, and after the first failure never again. Nothing rests on it: Pawl resumes from its own
log alone.
"""

from __future__ import annotations

import json
import logging
import queue
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import ray.train

__all__ = ["POINTER_FILE", "RayAnnouncer"]

POINTER_FILE = "pawl-pointer.json"
_CLOSE_PATIENCE_S = 15.0
_log = logging.getLogger("pawl")


class RayAnnouncer:
    """Args as for the pointer: where the run lives, and its name."""

    def __init__(self, url: str, run: str, rank: int) -> None:
        self._pointer = {"url": url, "run": run}
        self._rank = rank
        self._queue: queue.Queue[tuple[int, int, dict[str, float]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="pawl-report", daemon=True)
        self._thread.start()

    def announce(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        self._queue.put((number, step, dict(metrics)))

    def close(self) -> None:
        """Wait a little for what is queued; a report that hangs is left behind."""
        self._queue.put(None)
        self._thread.join(_CLOSE_PATIENCE_S)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._report(*item)
            except Exception as error:  # noqa: BLE001 - whatever Ray raises here must not end training
                _log.warning(
                    "Ray Train was not told of version %d (%s); it is told of none from now on. The version is safe.",
                    item[0],
                    error,
                )
                return

    def _report(self, number: int, step: int, metrics: dict[str, float]) -> None:
        told = {"pawl_version": number, "pawl_step": step, **metrics}
        if self._rank != 0:
            ray.train.report(told, checkpoint=None)
            return
        with tempfile.TemporaryDirectory(prefix="pawl-pointer-") as folder:
            pointer = {**self._pointer, "version": number, "step": step}
            (Path(folder) / POINTER_FILE).write_text(json.dumps(pointer))
            ray.train.report(
                told,
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"pawl-version-{number}",
            )
