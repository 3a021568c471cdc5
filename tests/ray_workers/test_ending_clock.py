from __future__ import annotations

from ray_workers.ending_clock import EndingClock


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_tells_each_phase_from_the_request_on_in_order() -> None:
    now = Clock()
    clock = EndingClock(now)
    with clock.after("Ray"), clock.after("actors"):
        now.now += 50  # nobody asked for anything yet
        clock.begin("Ctrl-C", since_s=1.0)
        now.now += 2
        clock.mark("workers")
        clock.begin("SIGTERM")  # a later request changes nothing
        now.now += 0.5
    event = clock.event()
    assert event is not None
    assert event.details["cause"] == "Ctrl-C"
    assert list(event.details["seconds"].items()) == [
        ("workers", 3.0),
        ("actors", 0.5),
        ("Ray", 0.0),
    ]
    assert event.message == "Ended after Ctrl-C: workers 3.00 s, actors 0.50 s, Ray 0.00 s."


def test_an_end_that_nobody_asked_for_is_not_told() -> None:
    clock = EndingClock(Clock())
    with clock.after("Ray"):
        pass
    assert clock.event() is None


def test_an_end_after_which_training_went_on_is_no_part_of_the_last_one() -> None:
    now = Clock()
    clock = EndingClock(now)
    clock.begin("resize")
    clock.mark("workers")
    clock.forget()
    assert clock.event() is None
    clock.begin("Ctrl-C")
    now.now += 2
    clock.mark("Ray")
    event = clock.event()
    assert event is not None
    assert event.details == {"cause": "Ctrl-C", "seconds": {"Ray": 2.0}}
