"""Signals while Ray trains: the main thread hears them, and `fit` does not."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from ray_workers import trainer
from ray_workers.fitting import Fitting
from ray_workers.messages import StopRequest


class Supervised:
    """As much of a supervisor as an ending looks at."""

    def __init__(self, grace_s: float) -> None:
        self._until = time.monotonic() + grace_s

    @property
    def interruption(self) -> StopRequest:
        left = max(0.0, self._until - time.monotonic())
        return StopRequest(reason="interrupted", cause="Ctrl-C", grace_s=left)


def test_it_returns_when_fit_does_and_raises_what_fit_raised() -> None:
    assert Fitting(lambda: None).wait(30)

    def fails() -> None:
        raise ValueError("planted")

    fitting = Fitting(fails)
    for _ in range(2):
        with pytest.raises(ValueError, match="planted"):
            fitting.wait(30)


def test_a_signal_reaches_the_thread_that_waits_and_not_fit() -> None:
    release, seen = threading.Event(), []

    def fit() -> None:
        seen.append(threading.current_thread() is threading.main_thread())
        release.wait(60)

    fitting = Fitting(fit)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        fitting.wait(300)
    assert not fitting.wait(0)
    release.set()
    assert fitting.wait(30)
    assert seen == [False]


def test_the_end_is_waited_for_and_what_fit_raises_then_is_no_news() -> None:
    release = threading.Event()

    def fit() -> None:
        release.wait(60)
        raise RuntimeError("workers ended")

    fitting = Fitting(fit)
    threading.Timer(0.1, release.set).start()
    trainer._wait_for_the_end(fitting, Supervised(grace_s=300))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        fitting.wait(0)


def test_when_the_grace_is_over_nobody_is_waited_for() -> None:
    release = threading.Event()
    fitting = Fitting(lambda: release.wait(300))
    trainer._wait_for_the_end(fitting, Supervised(grace_s=0.2))  # type: ignore[arg-type]
    assert not fitting.wait(0)
    release.set()


def test_a_second_signal_goes_through_at_once() -> None:
    release = threading.Event()
    fitting = Fitting(lambda: release.wait(300))
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        trainer._wait_for_the_end(fitting, Supervised(grace_s=300))  # type: ignore[arg-type]
    release.set()


@pytest.mark.parametrize(
    ("signalled", "chosen", "cause", "grace_s"),
    [
        (KeyboardInterrupt(), None, "Ctrl-C", 6.0),
        (SystemExit(15), None, "SIGTERM", 18.0),
        (SystemExit(15), 300.0, "SIGTERM", 300.0),
    ],
)
def test_the_grace_is_the_users_or_what_the_sender_gives(signalled, chosen, cause, grace_s) -> None:
    request = trainer._request(signalled, chosen)
    assert (request.reason, request.cause, request.grace_s) == ("interrupted", cause, grace_s)


def test_fit_that_is_still_at_work_comes_back_before_ray_is_left(monkeypatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(trainer, "end_train_controllers", release.set)
    fitting = Fitting(lambda: release.wait(300))
    trainer._end(fitting)
    assert fitting.over(0)


def test_a_cluster_that_does_not_answer_then_is_not_waited_for(monkeypatch) -> None:
    silent = threading.Event()
    monkeypatch.setattr(trainer, "_COME_BACK_S", 0.1)
    monkeypatch.setattr(trainer, "end_train_controllers", lambda: silent.wait(300))
    fitting = Fitting(lambda: silent.wait(300))
    trainer._end(fitting)
    assert not fitting.over(0)
    silent.set()
