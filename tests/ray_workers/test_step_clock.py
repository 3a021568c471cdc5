from dataclasses import replace

import pytest

from ray_workers.report_builder import build_report
from ray_workers.step_clock import StepClock
from ray_workers.store.memory import MemoryStore
from tests.support.factories import MadeUpRun


def clocked(startup):
    """An attempt that began at noon, committed step 10 after 100 s and step 20 after 200 s."""
    run = MadeUpRun(store=MemoryStore())
    run.start()
    run.commit(10)
    run.commit(20)
    report = build_report(run.store, "digits")
    times = ("2026-11-24T12:01:40+00:00", "2026-11-24T12:03:20+00:00")
    versions = [
        replace(v, committed_at=at, startup=startup)
        for v, at in zip(report.versions, times, strict=True)
    ]
    attempts = [replace(a, started_at="2026-11-24T12:00:00+00:00") for a in report.attempts]
    clock = StepClock(replace(report, versions=tuple(versions), attempts=tuple(attempts)))

    def seconds(step):
        hours = clock.hours(step, 1)
        assert hours is not None
        return 3600 * hours

    return seconds


@pytest.mark.parametrize(
    ("startup", "halfway"),
    [
        ({}, 50),
        ({"start_s": 60.0, "restore_s": 20.0, "warm_up_s": 500.0}, 90),
        ({"start_s": 1e6}, 100),
    ],
)
def test_steps_are_spread_from_the_end_of_the_startup_to_the_commit(startup, halfway):
    seconds = clocked(startup)
    assert seconds(5) == pytest.approx(halfway)
    assert (seconds(10), seconds(15), seconds(20)) == pytest.approx((100, 150, 200))


def test_a_step_that_nobody_did_has_no_time():
    run = MadeUpRun(store=MemoryStore())
    run.start()
    run.commit(10)
    clock = StepClock(build_report(run.store, "digits"))
    assert clock.hours(11, 1) is None
    assert clock.hours(1, 7) is None
