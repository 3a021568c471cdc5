"""The worst moment, made certain: copies beside training do not begin before somebody waits for them."""

from __future__ import annotations

import threading

from ray_workers import state_copy
from ray_workers.host_copy import HostCopy

_PATIENCE_S = 60


def hold_copies_back(monkeypatch) -> None:
    """Background copies of the steady state stand still until training joins them, or until nobody ever did."""

    class Gated(HostCopy):
        _gate: threading.Event

        def __init__(self, segments, pool, *, on_copied=None, keep=None) -> None:
            self._gate = threading.Event()
            if on_copied is None:
                self._gate.set()  # what is copied at once is joined at once
                super().__init__(segments, pool)
            else:
                super().__init__(segments, pool, on_copied=on_copied, keep=keep)

        def join(self) -> None:
            self._gate.set()
            super().join()

        def _work(self) -> None:
            if threading.current_thread() is not threading.main_thread():
                self._gate.wait(_PATIENCE_S)
            super()._work()

    monkeypatch.setattr(state_copy, "HostCopy", Gated)
