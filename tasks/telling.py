"""Telling people on a thread of its own: who watches over a training must never wait for whoever shows it."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ray_workers.messages import PawlEvent

__all__ = ["Telling"]

_MOST = 1000
"""Events that wait; a server that is away for long costs the oldest."""
_FLUSH_S = 10.0
_FLUSH_ENDED_S = 2.0
"""The same for what was interrupted or failed: there may be little time left."""
_log = logging.getLogger(__name__)


class Telling:
    """Use as a context manager; events are told one at a time, in the order in which they came.

    What waits at the end is told within a few seconds, or not at all.

    Args:
        tell: may take as long as it likes; runs in a copy of the context in which this was entered. What it raises is
            logged.
        most: events that may wait.
    """

    def __init__(self, tell: Callable[[PawlEvent], None], *, most: int = _MOST) -> None:
        self._tell = tell
        self._waiting: deque[PawlEvent] = deque()
        self._most = most
        self._left_out = 0
        self._changed = threading.Condition()
        self._over = False
        self._busy = False

    def __enter__(self) -> Self:
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._run,), name="pawl-telling", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        deadline = time.monotonic() + (_FLUSH_S if error is None else _FLUSH_ENDED_S)
        with self._changed:
            self._changed.wait_for(
                lambda: not self._waiting and not self._busy, deadline - time.monotonic()
            )
            self._over = True
            self._left_out += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        if self._left_out:
            _log.warning("%d events were not shown: Prefect took too long", self._left_out)

    def put(self, event: PawlEvent) -> None:
        """Have this event told. Returns at once; from any thread."""
        with self._changed:
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self._left_out += 1
            self._waiting.append(event)
            self._changed.notify_all()

    def _run(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._tell(event)
            except Exception as error:  # noqa: BLE001 - the outermost frame of a view; it must not end training
                _log.warning("An event could not be shown: %s", error)

    def _next(self) -> PawlEvent | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._over)
            if not self._waiting:
                return None
            self._busy = True
            return self._waiting.popleft()
