"""How often training fails is asked while it trains, and what goes wrong with that costs one answer."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from ray_workers import trainer
from ray_workers.config import Saving
from ray_workers.policies.failure_rate import PRIOR, Evidence
from ray_workers.rate_watch import RateWatch
from ray_workers.store.errors import StoreUnavailableError
from ray_workers.store.opening import StorageTarget
from tests.support.factories import MadeUpRun, folder_store

OFTEN = PRIOR.after([Evidence(failures=50, worker_hours=100)])


def wait_for(found: Any) -> None:
    deadline = time.monotonic() + 60
    while not found() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert found()


def test_the_newest_answer_counts_and_an_error_keeps_the_one_before(caplog):
    answers = iter([PRIOR, StoreUnavailableError("away"), OFTEN])
    asked = threading.Semaphore(1)

    def ask():
        asked.acquire()
        answer = next(answers, OFTEN)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with RateWatch(ask, every_s=0.001) as watch:
        wait_for(lambda: watch.latest == PRIOR)
        asked.release()
        wait_for(lambda: "away" in caplog.text)
        assert watch.latest == PRIOR
        asked.release(1000)
        wait_for(lambda: watch.latest == OFTEN)


def test_nobody_is_asked_any_more_when_training_is_over():
    asked: list[int] = []

    def ask():
        asked.append(1)
        return PRIOR

    with RateWatch(ask, every_s=0.001) as watch:
        wait_for(lambda: watch.latest)
    time.sleep(0.05)
    before = len(asked)
    time.sleep(0.1)
    assert len(asked) <= before + 1


@pytest.mark.parametrize("interval", ["auto", "fixed"])
def test_it_is_made_of_the_runs_log_and_of_what_is_known_elsewhere(tmp_path, monkeypatch, interval):
    run = MadeUpRun(store=folder_store(tmp_path), name="run")
    run.start()
    run.commit(10)
    monkeypatch.setattr(RateWatch.__init__, "__kwdefaults__", {"every_s": 0.001})
    job: Any = type("Job", (), {"saving": Saving(interval=interval, every_steps=1)})()
    job.target, job.run = StorageTarget(str(tmp_path)), "run"
    with trainer._rate_of(job, lambda: [Evidence(failures=50, worker_hours=100)]) as rate:
        if interval == "fixed":
            assert rate() is None
            return
        wait_for(rate)
        found = rate()
    assert found is not None
    assert found.mean == pytest.approx(OFTEN.mean, rel=0.01)
