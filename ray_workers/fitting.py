"""Ray Train's blocking `fit()` on a thread of its own, so that signals find the main thread free.

On the main thread `fit()` replaces the handler of SIGINT and does not put it back, and an exception from any other
handler cuts into its `ray.get`. On another thread it touches neither. The local cluster is started before, on the main
thread: its processes die with the thread that started them.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Fitting"]


class Fitting:
    """Starts at once. The thread is a daemon: a process that must end does not wait for it."""

    def __init__(self, fit: Callable[[], Any]) -> None:
        self._fit = fit
        self._error: BaseException | None = None
        self._ended = threading.Event()
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._run,), name="pawl-fit", daemon=True
        ).start()

    def wait(self, timeout_s: float) -> bool:
        """Whether `fit` has returned, after at most so many seconds; raises what it raised."""
        if not self._ended.wait(timeout_s):
            return False
        if self._error is not None:
            raise self._error
        return True

    def over(self, timeout_s: float) -> bool:
        """Whether `fit` has come back, in whatever way, after at most so many seconds."""
        return self._ended.wait(timeout_s)

    def _run(self) -> None:
        try:
            self._fit()
        except BaseException as error:  # noqa: BLE001 - the outermost frame of a thread: `wait` raises it
            self._error = error
        finally:
            self._ended.set()
