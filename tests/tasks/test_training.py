"""Events of a training are logged at once, and shown by a thread that alone waits for Prefect's server."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ray_workers.config import Retention, Saving, Scaling, Validation
from ray_workers.messages import PawlEvent
from ray_workers.store.opening import StorageTarget
from ray_workers.training_job import TrainingJob
from tasks import retention, telling, training
from tasks.attempt import Attempt
from tasks.run_identity import RunIdentity

COMMITTED = PawlEvent(kind="committed", message="Version 1 committed", at="", details={"step": 5})


class Publisher:
    def __init__(self, *_: object) -> None: ...
    def publish(self) -> None: ...
    def publish_soon(self) -> None: ...


@pytest.fixture
def attempt(monkeypatch):
    """An attempt whose training is `scene.train`, and whose pages are `scene.show`."""
    request = SimpleNamespace(
        target=StorageTarget("memory://x"), run="run", entrypoint="mine:loop", config={},
        code_dir=Path("/there"), scaling=Scaling(), saving=Saving(time_limit_seconds=600),
        validation=Validation(), retention=Retention(), job_wish=None,
        identity=RunIdentity(flow_run_id="f-1", name="owl", run_count=2),
    )  # fmt: skip
    scene = SimpleNamespace(
        request=request, finished=None, run_id="0" * 32, fence=2, by={}, job=None,
        logger=logging.getLogger("flow"), show=lambda _: None, sent=[],
    )  # fmt: skip

    class Bar:
        def __init__(self, _: object) -> None: ...

        def show(self, event: PawlEvent) -> None:
            scene.show(event)

    def train(job: TrainingJob, on_event: Any, elsewhere: Any) -> None:
        scene.elsewhere = elsewhere
        scene.train(job, on_event)

    for module in (training, retention):
        monkeypatch.setattr(module, "get_run_logger", lambda: scene.logger)
    monkeypatch.setattr(training, "failures_elsewhere", lambda _: ())
    monkeypatch.setattr(training, "LineagePublisher", Publisher)
    monkeypatch.setattr(training, "ProgressBar", Bar)
    monkeypatch.setattr(training, "tell_prefect", lambda event, *_: scene.sent.append(event))
    monkeypatch.setattr(training, "running_for_s", lambda _: 100.0)
    monkeypatch.setattr(training, "train", train)
    return scene


def run(scene: Any) -> None:
    training.run_training(cast("Attempt", scene), None)


def test_a_silent_server_holds_up_no_training(attempt, monkeypatch, caplog):
    monkeypatch.setattr(telling, "_FLUSH_S", 0.2)
    silent, took = threading.Event(), list[float]()
    attempt.show = lambda _: silent.wait(120)

    def train(job: TrainingJob, on_event: Any) -> None:
        assert job.run == "run"
        began = time.monotonic()
        for _ in range(20):
            on_event(COMMITTED)
        took.append(time.monotonic() - began)

    attempt.train = train
    with caplog.at_level(logging.INFO, "flow"):
        run(attempt)
    silent.set()
    assert took[0] < 30
    assert len(attempt.sent) == 20
    assert caplog.messages.count("Version 1 committed") == 20


def test_all_is_shown_before_the_training_counts_as_done(attempt):
    shown = list[PawlEvent]()
    attempt.show = shown.append
    line = PawlEvent(kind="log", message="hello", at="")

    def train(_: TrainingJob, on_event: Any) -> None:
        for event in (COMMITTED, line, COMMITTED):
            on_event(event)

    attempt.train = train
    run(attempt)
    assert shown == attempt.sent == [COMMITTED, COMMITTED]


def test_what_is_judged_reaches_the_retention_while_training_goes_on(attempt, monkeypatch):
    heard = list[PawlEvent]()
    monkeypatch.setattr(training, "retention_while_training", lambda _: heard.append)
    attempt.train = lambda _, on_event: on_event(COMMITTED)
    run(attempt)
    assert heard == [COMMITTED]


def test_the_time_limit_is_an_instant_and_not_a_rest_that_waits_for_the_start(attempt, monkeypatch):
    jobs = list[TrainingJob]()
    monkeypatch.setattr(training, "epoch_seconds", lambda: 10_000.0)
    attempt.train = lambda job, _: jobs.append(job)
    run(attempt)
    attempt.request.saving = Saving()
    run(attempt)
    assert [job.time_up_at for job in jobs] == [10_500.0, None]


def test_the_code_version_of_the_project_goes_along(attempt, monkeypatch, tmp_path):
    monkeypatch.setenv("PAWL_CODE_VERSION", "v7")
    jobs = list[TrainingJob]()
    attempt.request.code_dir = tmp_path
    attempt.train = lambda job, _: jobs.append(job)
    run(attempt)
    assert (jobs[0].code, jobs[0].code_dir) == ("v7", tmp_path)
