from __future__ import annotations

import os

from ray_workers.heart import Heart


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def beating(*gaps: float) -> tuple[Heart, Clock]:
    """A heart that has warmed up, and then took steps at these distances."""
    clock = Clock()
    heart = Heart(clock)
    for number, gap in enumerate((90.0, 50.0, 40.0, *gaps)):
        clock.now += gap
        heart.stepped(number + 1)
    return heart, clock


def test_the_gaps_of_the_first_steps_are_not_measured() -> None:
    heart, _ = beating()
    pulse = heart.pulse(0)
    assert (pulse.gaps, pulse.longest_s, pulse.step) == (0, 0.0, 3)


def test_it_tells_the_usual_and_the_longest_gap_and_how_long_it_is_silent() -> None:
    heart, clock = beating(1.0, 2.0, 9.0)
    clock.now += 4.0
    pulse = heart.pulse(3)
    assert (pulse.median_s, pulse.longest_s, pulse.silent_s) == (2.0, 9.0, 4.0)
    assert (pulse.rank, pulse.pid, pulse.step, pulse.resting) == (3, os.getpid(), 6, False)


def test_before_its_first_step_it_rests() -> None:
    heart = Heart(Clock())
    assert heart.pulse(0).resting
    heart.stepped(1)
    assert not heart.pulse(0).resting


def test_rest_is_no_silence_and_no_gap() -> None:
    heart, clock = beating(1.0)
    with heart.resting():
        clock.now += 700.0
        assert heart.pulse(0).resting
    clock.now += 1.0
    assert (heart.pulse(0).resting, heart.pulse(0).silent_s) == (False, 1.0)
    heart.stepped(5)
    assert (heart.pulse(0).gaps, heart.pulse(0).longest_s) == (1, 1.0)
    clock.now += 3.0
    heart.stepped(6)
    assert heart.pulse(0).longest_s == 3.0


def test_when_it_is_over_it_rests_until_another_step_comes() -> None:
    heart, clock = beating(1.0)
    heart.over()
    clock.now += 9000.0
    assert heart.pulse(0).resting
    heart.stepped(5)
    assert (heart.pulse(0).resting, heart.pulse(0).longest_s) == (False, 1.0)


def test_rests_inside_of_rests_end_with_the_outer_one() -> None:
    heart, _ = beating(1.0)
    with heart.resting():
        with heart.resting():
            pass
        assert heart.pulse(0).resting
    assert not heart.pulse(0).resting


def test_the_last_step_of_an_epoch_is_marked_until_the_next_one() -> None:
    heart, _ = beating(1.0)
    heart.stepped(5, last_of_epoch=True)
    assert heart.pulse(0).between_epochs
    heart.stepped(6)
    assert not heart.pulse(0).between_epochs
