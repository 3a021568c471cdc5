"""How often training fails is asked again while it trains, on a thread of its own: who answers may take its time."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Self

from ray_workers.policies.failure_rate import FailureRate

__all__ = ["RateWatch"]

_EVERY_S = 1800.0
"""A rate is known from days of history: half an hour changes it only when much fails."""
_log = logging.getLogger(__name__)


class RateWatch:
    """Use as a context manager.

    Args:
        ask: answers with the rate as it is known now; what it raises costs one answer. Runs in a copy of the context in
            which this was entered.
        every_s: seconds between two questions.
    """

    def __init__(self, ask: Callable[[], FailureRate], *, every_s: float = _EVERY_S) -> None:
        self._ask = ask
        self._every_s = every_s
        self._over = threading.Event()
        self.latest: FailureRate | None = None
        """The newest answer; None: there is none yet."""

    def __enter__(self) -> Self:
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._watch,), name="pawl-rate", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self.latest = self._ask()
            except Exception as error:  # noqa: BLE001 - the outermost frame of a thread; the interval stays what it was
                _log.warning("How often training fails could not be asked again: %s", error)
