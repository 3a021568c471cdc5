"""What `pawl repair` may lift, and what only a person can."""

import pytest

from ray_workers.store.memory import MemoryStore
from ray_workers.store.repair import plan_repair, repair
from tests.support.factories import MadeUpRun


@pytest.fixture
def run():
    """Three versions; version 2 was bad for its bytes, and every byte of it holds now."""
    made = MadeUpRun(store=MemoryStore(), name="run")
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
    made.end()
    return made


def steps(run):
    plan = plan_repair(run.store, "run", release=True)
    return [(step.what, step.target) for step in plan.steps]


def release(run):
    return repair(run.store, plan_repair(run.store, "run", release=True), by={}, lost={})


def test_a_version_that_was_bad_for_its_bytes_alone_is_released(run):
    run.judge(2, check="bytes", reason="the disk was away")
    assert steps(run) == [("release", 2), ("verified", 2)]
    release(run)
    assert run.version(2).rung == "verified"


@pytest.mark.parametrize("bytes_first", [False, True])
def test_a_version_that_another_check_failed_is_not_released_with_its_bytes(run, bytes_first):
    judgements = [("sound", "NaN in weight0"), ("bytes", "the disk was away")]
    for check, reason in reversed(judgements) if bytes_first else judgements:
        run.judge(2, check=check, reason=reason)
    plan = plan_repair(run.store, "run", release=True)
    assert [(step.what, step.target) for step in plan.steps] == [("explain", 2)]
    assert "not for its bytes: NaN in weight0" in plan.steps[0].text
    assert release(run) == ()
    assert run.version(2).rung == "quarantined"


def test_what_a_person_released_before_does_not_count_any_more(run):
    run.judge(2, reason="NaN in weight0")
    run.judge(2, check="release")
    run.judge(2, check="bytes", reason="the disk was away")
    assert steps(run) == [("release", 2), ("verified", 2)]
