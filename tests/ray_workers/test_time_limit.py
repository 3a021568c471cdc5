"""A time limit ends when it was to end, however long Ray or a job's queue kept the training from its start."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from ray_workers import job_parts, trainer
from ray_workers.config import Saving, Scaling
from ray_workers.interruption_watch import InterruptionWatch
from ray_workers.job_spec import JobSpec
from tests.ray_workers.test_job_spec import JOB

LIMITED = replace(JOB, saving=Saving(time_limit_seconds=600), time_up_at=10_600.0)


@pytest.fixture
def clocks(monkeypatch):
    """Seconds since the epoch and of the monotonic clock, as a test sets them."""
    now = {"wall": 10_000.0, "monotonic": 50.0}
    monkeypatch.setattr(job_parts, "epoch_seconds", lambda: now["wall"])
    monkeypatch.setattr("ray_workers.job_parts.time.monotonic", lambda: now["monotonic"])
    return now


def test_what_a_job_waited_in_its_queue_is_gone_when_it_begins(clocks):
    job = JobSpec.decode(JobSpec.of(LIMITED).encode(), JOB.code_dir).job
    clocks["wall"] += 250
    assert job_parts.time_up_at(job) == 50 + 350


def test_without_a_start_to_count_from_the_whole_limit_is_left(clocks):
    assert job_parts.time_up_at(replace(LIMITED, time_up_at=None)) == 50 + 600
    assert job_parts.time_up_at(JOB) is None


@pytest.mark.parametrize("workers", ["fixed", "a range"])
def test_the_start_of_ray_counts(clocks, monkeypatch, workers):
    limits = []

    def slow_start(*_):
        clocks["monotonic"] += 90
        clocks["wall"] -= 5000  # a clock that is set does not matter
        return nullcontext()

    class Watched(Exception):  # noqa: N818 - no error
        pass

    def supervisor(task):
        limits.append(task.limit)
        raise Watched

    def elastically(job, group, on_event, *, until):
        assert until == 50 + 600
        group(job, None)

    monkeypatch.setattr(trainer, "ray_cluster", slow_start)
    monkeypatch.setattr(trainer, "Supervisor", supervisor)
    monkeypatch.setattr(trainer, "train_elastically", elastically)
    most = 4 if workers == "a range" else None
    scaling = Scaling(workers=3, max_workers=most, on_changed_workers="reshard")
    with pytest.raises(Watched):
        trainer.train(replace(LIMITED, scaling=scaling), on_event=lambda _: None)
    (limit,) = limits
    watch = InterruptionWatch(
        limit=limit, draining=dict, place=lambda _: None, clock=lambda: clocks["monotonic"]
    )
    clocks["monotonic"] = 50 + 600 - 20
    assert watch.asked({}) is None
    clocks["monotonic"] = 50 + 600 - 11
    asked = watch.asked({})
    assert asked is not None
    assert asked.grace_s <= 11
