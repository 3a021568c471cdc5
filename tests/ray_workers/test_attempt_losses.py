"""Times are seconds after midnight; a version's number is its step divided by ten."""

from datetime import UTC, datetime, timedelta

import pytest

from ray_workers.attempt_losses import Loss, attempt_losses
from ray_workers.store.bodies import RunOrigin, VersionName
from ray_workers.store.run_state import AttemptState, RunState, VersionState


def at(second):
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).isoformat()


def name(number):
    return VersionName(number=number, manifest=f"{number:064x}")


def version(number, *, fence, second):
    return VersionState(
        number=number, manifest=name(number).manifest, fence=fence, slot=fence + number, step=10 * number, bytes=1,
        base=None, at=at(second),
    )  # fmt: skip


def attempt(fence, second, *, resume=None, last=-1, outcome=None, ended=None, **fields):
    chosen = {
        "resume_at": at(second),
        "resume": None if resume is None else name(resume),
        "incarnation": 0,
    } | fields
    return AttemptState(
        fence=fence, flow_run_id="f", run_count=fence, by={}, at=at(second), last_step=last,
        outcome=outcome, ended_at=None if ended is None else at(ended), **chosen,
    )  # fmt: skip


def losses(attempts, versions=(), *, damaged=(), origin_step=None):
    state = RunState(
        run="r",
        damaged=damaged,
        attempts={a.fence: a for a in attempts},
        versions={v.number: v for v in versions},
    )
    return list(attempt_losses(state, origin_step).values())


def test_the_first_attempt_lost_nothing():
    assert losses([attempt(10, 5, last=30)]) == [Loss(steps=0, seconds=0.0)]


def test_no_attempt_no_loss():
    assert losses([]) == []


def test_resuming_the_newest_commit_loses_the_time_since():
    versions = [version(1, fence=10, second=40)]
    _, second = losses([attempt(10, 0, last=10), attempt(20, 100, resume=1)], versions)
    assert second == Loss(steps=0, seconds=60.0)


def test_falling_back_loses_the_steps_and_the_time_above_the_resume_point():
    versions = [version(n, fence=10, second=20 * n) for n in (1, 2, 3)]
    _, second = losses([attempt(10, 0, last=30), attempt(20, 100, resume=1)], versions)
    assert second == Loss(steps=20, seconds=80.0)


def test_starting_again_from_nothing_loses_all():
    versions = [version(1, fence=10, second=20)]
    _, second = losses([attempt(10, 0, last=10), attempt(20, 100)], versions)
    assert second == Loss(steps=10, seconds=100.0)


def test_an_attempt_that_committed_nothing_reached_at_least_where_it_resumed():
    versions = [version(n, fence=10, second=20 * n) for n in (1, 2)]
    attempts = [
        attempt(10, 0, last=20),
        attempt(20, 100, resume=2),
        attempt(30, 200, resume=1),
    ]
    assert losses(attempts, versions)[2].steps == 10


def test_a_stretch_of_time_is_counted_once():
    """Version 2 (at 40) is resumed at 100, found bad later, and version 1 (at 20) resumed at 200."""
    versions = [version(n, fence=10, second=20 * n) for n in (1, 2)]
    attempts = [
        attempt(10, 0, last=20),
        attempt(20, 100, resume=2),
        attempt(30, 200, resume=1),
    ]
    seconds = [loss.seconds for loss in losses(attempts, versions)]
    assert seconds == [0.0, 60.0, 120.0]
    assert sum(filter(None, seconds)) == 200 - 20


def test_the_same_version_resumed_twice_counts_only_the_new_time():
    versions = [version(1, fence=10, second=20)]
    attempts = [attempt(10, 0, last=10), attempt(20, 100, resume=1), attempt(30, 130, resume=1)]
    assert [loss.seconds for loss in losses(attempts, versions)] == [0.0, 80.0, 30.0]


def test_the_pause_after_an_attempt_that_completed_is_not_lost():
    versions = [version(1, fence=10, second=40)]
    done = attempt(10, 0, last=10, outcome="completed", ended=45)
    assert losses([done, attempt(20, 1000, resume=1)], versions)[1] == Loss(steps=0, seconds=5.0)


@pytest.mark.parametrize("outcome", ["failed", "interrupted"])
def test_the_pause_after_any_other_end_is(outcome):
    versions = [version(1, fence=10, second=40)]
    ended = attempt(10, 0, last=10, outcome=outcome, ended=45)
    assert losses([ended, attempt(20, 1000, resume=1)], versions)[1].seconds == 960.0


def test_nothing_is_known_before_a_resume_point_is_chosen_and_it_hides_nothing_later():
    versions = [version(n, fence=10, second=20 * n) for n in (1, 2)]
    attempts = [
        attempt(10, 0, last=20),
        attempt(20, 100, resume=None, resume_at=None),
        attempt(30, 200, resume=1),
    ]
    found = losses(attempts, versions)
    assert found[1] == Loss(steps=None, seconds=None)
    assert found[2] == Loss(steps=10, seconds=180.0)


def test_a_damaged_slot_may_have_held_a_commit():
    versions = [version(1, fence=10, second=20)]
    attempts = [attempt(10, 0, last=10), attempt(20, 100, resume=1), attempt(30, 130, resume=1)]
    steps = [loss.steps for loss in losses(attempts, versions, damaged=(15,))]
    assert steps == [0, None, 0]


def test_after_an_attempt_of_unknown_start_the_steps_are_unknown():
    versions = [version(1, fence=10, second=20), version(2, fence=15, second=30)]
    attempts = [attempt(10, 0, last=10), attempt(20, 100, resume=2)]
    assert losses(attempts, versions)[1] == Loss(steps=None, seconds=70.0)


def test_when_the_first_attempt_is_unknown_the_second_is_not_called_the_first():
    versions = [version(1, fence=10, second=20)]
    assert losses([attempt(20, 100, resume=1)], versions)[0].steps is None


def test_a_fork_counts_from_its_own_start():
    origin = RunOrigin(run="other", run_id="x", version=name(5))
    attempts = [
        attempt(10, 0, resume=5, resume_origin=origin),
        attempt(20, 100, resume=5, resume_origin=origin),
    ]
    assert losses(attempts, origin_step=50) == [
        Loss(steps=0, seconds=0.0),
        Loss(steps=0, seconds=100.0),
    ]
    assert losses(attempts, origin_step=None)[1].steps is None


def test_a_time_that_cannot_be_read_leaves_the_seconds_unknown():
    versions = [version(1, fence=10, second=20)]
    attempts = [attempt(10, 0, last=10), attempt(20, 100, resume=1)]
    broken = [
        VersionState(**{f: getattr(versions[0], f) for f in VersionState.__slots__} | {"at": "?"})
    ]
    assert losses(attempts, broken)[1] == Loss(steps=0, seconds=None)


def test_an_actor_started_again_loses_nothing_and_what_it_commits_can_be_lost_later():
    versions = [version(1, fence=10, second=20), version(3, fence=20, second=90)]
    attempts = [
        attempt(10, 0, last=10, last_commit=1),
        attempt(20, 60, last=30, last_commit=3, resume_at=None, incarnation=1),
        attempt(30, 100, resume=1),
    ]
    assert losses(attempts, versions) == [
        Loss(steps=0, seconds=0.0),
        Loss(steps=0, seconds=0.0),
        Loss(steps=20, seconds=80.0),
    ]
