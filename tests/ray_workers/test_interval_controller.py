"""The interval follows what is measured: dearer saves, a slower store, more failures, quiet hours."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ray_workers.interval_controller import FIRST_SAVE_S, IntervalController, IntervalPlan
from ray_workers.messages import VersionOutcome
from ray_workers.policies.failure_rate import FailureRate, Gamma
from ray_workers.policies.interval import IntervalCaps


def rate_of(failures: float, hours: float) -> FailureRate:
    return FailureRate((Gamma(failures=failures, worker_hours=hours),))


ONE_IN_THREE_HOURS = rate_of(1000.0, 3000.0)
OPEN = IntervalCaps(min_s=0.1, max_s=1e6, overhead=1.0)


class Scene:
    """A training of one worker with a clock of its own."""

    def __init__(self, **plan: object) -> None:
        self.now = 0.0
        known = {"caps": OPEN, "rate": ONE_IN_THREE_HOURS, "workers": 1, **plan}
        self.controller = IntervalController(IntervalPlan(**known), clock=lambda: self.now)  # type: ignore[arg-type]

    def steps(self, count: int, seconds: float, *, beside: bool = False) -> None:
        for _ in range(count):
            self.now += seconds
            self.controller.stepped(beside=beside)

    def saved(
        self,
        *,
        stall_s: float = 0.0,
        persist_s: float = 1.0,
        number: int | None = 1,
        bytes_new: int = 10**6,
    ) -> None:
        outcome = VersionOutcome(
            step=1,
            number=number,
            persist_s=persist_s if number else None,
            stall_s=stall_s,
            bytes=10**6,
            bytes_new=bytes_new,
        )
        self.controller.heard(outcome)

    @property
    def seconds(self) -> float:
        return self.controller.decide().seconds


def young(cost: float, mtbf: float = 10_800.0) -> float:
    return math.sqrt(2 * cost * mtbf)


def test_a_run_of_which_nothing_is_known_saves_early_to_learn_what_it_costs() -> None:
    scene = Scene(rate=rate_of(0.5, 5000.0))
    assert scene.seconds == FIRST_SAVE_S
    scene.saved(stall_s=0.5)
    assert scene.seconds > 20 * FIRST_SAVE_S


def test_what_earlier_attempts_measured_is_used_before_the_first_save() -> None:
    scene = Scene(cost_s=0.5, persist_s=2.0)
    assert scene.seconds == pytest.approx(young(0.5), rel=0.01)


def test_the_stall_is_the_cost_and_one_slow_answer_changes_little() -> None:
    scene = Scene()
    for stall in (0.5, 0.5, 60.0, 0.5, 0.5):
        scene.saved(stall_s=stall)
    assert scene.seconds == pytest.approx(young(0.5), rel=0.01)


def test_steps_that_are_slower_beside_a_save_cost_too() -> None:
    scene = Scene()
    scene.steps(11, 1.0)
    scene.steps(20, 1.1, beside=True)
    scene.saved(stall_s=0.1, persist_s=22.0)
    assert scene.seconds == pytest.approx(young(2.0), rel=0.02)


def test_the_first_step_compiles_and_is_no_measure_of_quiet_ones() -> None:
    scene = Scene()
    scene.steps(1, 9.0)
    scene.steps(4, 1.0)
    scene.steps(20, 1.1, beside=True)
    scene.saved(stall_s=0.1, persist_s=22.0)
    assert scene.seconds == pytest.approx(young(2.0), rel=0.02)


def test_steps_that_are_slower_beside_a_validation_cost_too() -> None:
    """They come after the commit, so they are counted with the next save; nor do they pass for quiet ones."""
    scene = Scene()
    scene.steps(11, 1.0)
    for _ in range(6):
        scene.saved(stall_s=0.1)
        scene.steps(1, 1.25)  # nobody knows of the validation yet
        scene.steps(3, 1.25, beside=True)
        scene.steps(10, 1.0)
        scene.steps(1, 1.0, beside=True)
    assert scene.seconds == pytest.approx(young(1.0), rel=0.02)


def test_the_budget_goes_by_the_mean_and_one_odd_save_counts_for_little() -> None:
    scene = Scene(caps=replace(OPEN, overhead=0.01), rate=rate_of(1e6, 1.0))
    for stall in (0.2, 0.6, 0.3, 60.0, 0.2):
        scene.saved(stall_s=stall)
    decided = scene.controller.decide()
    assert decided.bound_by == "overhead"
    # The odd one counts as three usual ones; on top comes what training does not notice of each.
    mean = (0.2 + 0.6 + 0.3 + 0.9 + 0.2) / 5
    assert decided.seconds == pytest.approx((mean + 0.2) / 0.01)
    assert decided.overhead == pytest.approx(0.3 / decided.seconds)


def test_an_evaluation_beside_a_save_is_not_charged_to_it() -> None:
    scene = Scene()
    scene.steps(10, 1.0)
    scene.steps(1, 600.0, beside=True)
    scene.saved(stall_s=0.1)
    assert scene.seconds < young(10.0)


def test_an_evaluation_among_the_quiet_steps_does_not_hide_what_saves_cost() -> None:
    scene = Scene()
    scene.steps(50, 1.0)
    scene.steps(1, 60.0)
    scene.steps(10, 1.0)
    scene.steps(10, 1.5, beside=True)
    scene.saved(stall_s=0.05)
    assert scene.seconds == pytest.approx(young(5.0), rel=0.4)


def test_a_store_that_gets_slower_makes_the_interval_longer_and_back_again() -> None:
    scene = Scene()
    for _ in range(5):
        scene.saved(stall_s=0.5, persist_s=2.0)
    before = scene.seconds
    for _ in range(5):
        scene.saved(stall_s=0.5, persist_s=600.0)
    assert scene.seconds == 600.0
    for _ in range(5):
        scene.saved(stall_s=0.5, persist_s=2.0)
    assert scene.seconds == pytest.approx(before)


def test_hours_without_a_failure_make_it_longer() -> None:
    scene = Scene(rate=rate_of(1.0, 3.0), workers=1)
    scene.saved(stall_s=0.5)
    before = scene.seconds
    scene.now += 9 * 3600
    assert scene.seconds == pytest.approx(2 * before, rel=0.02)


def test_more_workers_fail_more_often() -> None:
    few, many = Scene(workers=1), Scene(workers=100)
    for scene in (few, many):
        scene.saved(stall_s=0.1)
    assert many.seconds == pytest.approx(few.seconds / 10, rel=0.02)


def test_a_dropped_save_teaches_nothing() -> None:
    scene = Scene(cost_s=0.5, persist_s=2.0)
    scene.saved(number=None, stall_s=50.0)
    assert scene.seconds == pytest.approx(young(0.5), rel=0.01)
    assert set(scene.controller.seconds()) == {"interval_s", "mtbf_s"}


def test_what_goes_into_the_version_are_the_interval_and_the_cost() -> None:
    scene = Scene()
    scene.saved(stall_s=0.5)
    scene.saved(stall_s=0.7)
    told = scene.controller.seconds()
    assert told == {
        "interval_s": pytest.approx(scene.seconds, abs=0.001),
        "last_save_cost_s": 0.7,
        "mtbf_s": pytest.approx(10_800.0),
    }


def test_a_cap_on_the_network_counts_what_is_sent() -> None:
    caps = replace(OPEN, network_bytes_s=10.0)
    scene = Scene(caps=caps, rate=rate_of(1e9, 1.0), full_every=10)
    scene.saved()
    assert scene.controller.decide().bound_by == "network"
    assert scene.seconds == 1e5
    for _ in range(3):
        scene.saved(bytes_new=10**4)
    assert scene.seconds == pytest.approx((10**4 + 99_000) / 10)


def test_one_odd_save_after_a_restart_changes_little_and_several_do() -> None:
    scene = Scene(cost_s=0.5, persist_s=2.0)
    for _ in range(2):
        scene.saved(stall_s=50.0)
        assert scene.seconds == pytest.approx(young(0.5), rel=0.01)
    scene.saved(stall_s=50.0)
    assert scene.seconds > 5 * young(0.5)


@pytest.mark.parametrize("slower", [1.0, 1.08, 1.2])
@pytest.mark.parametrize("judged_s", [1.0, 30.0, math.inf])
def test_steps_that_get_longer_by_themselves_do_not_stretch_the_interval_for_ever(
    judged_s: float, slower: float
) -> None:
    """Whatever validation does beside: it keeps up, takes nearly as long as the interval, or hangs."""
    scene = Scene(caps=IntervalCaps(), rate=rate_of(1000.0, 1500.0), cost_s=0.05, persist_s=5.0)
    saved_at, gaps = 0.0, [0.0]
    staged: float | None = None
    committed = -math.inf
    while scene.now < 8 * 3600:
        beside = staged is not None or scene.now < committed + judged_s
        scene.steps(1, slower if scene.now > 4 * 3600 else 1.0, beside=beside)
        if staged is not None and scene.now - staged >= 5.0:
            scene.saved(stall_s=0.05, persist_s=5.0)
            staged, committed = None, scene.now
        if staged is None and scene.now - saved_at >= scene.seconds:
            gaps.append(scene.now - saved_at)
            staged = saved_at = scene.now
    assert max(gaps) < 8 * young(0.05, 5400.0)
    assert gaps[-1] < 3 * young(0.05, 5400.0)


def test_failures_elsewhere_shorten_the_interval_of_a_training_that_runs() -> None:
    scene = Scene(rate=rate_of(1.0, 300.0))
    scene.saved(stall_s=0.5)
    scene.now += 3600
    before = scene.seconds
    scene.controller.hear_rate(None)
    assert scene.seconds == before
    scene.controller.hear_rate(rate_of(100.0, 300.0))
    assert scene.seconds == pytest.approx(before / 10, rel=0.02)
    scene.now += 300 * 3600  # quiet since then
    assert scene.seconds == pytest.approx(before / 10 * math.sqrt(2), rel=0.02)


def test_a_save_waits_for_a_few_quiet_steps_and_not_for_ever() -> None:
    """Validation that takes nearly as long as the interval would leave none, and what a save costs would not be known."""
    scene = Scene(cost_s=0.5, persist_s=1.0)
    interval = scene.seconds
    assert scene.controller.due(interval), "before the first save there is nothing to measure"
    scene.steps(5, 1.0)
    scene.saved(stall_s=0.5)
    scene.steps(10, 1.0, beside=True)
    assert not scene.controller.due(1.01 * interval)
    assert scene.controller.due(2.01 * interval)
    scene.steps(3, 1.0)
    assert scene.controller.due(1.01 * interval)
    assert not scene.controller.due(0.98 * interval)


def test_where_saves_are_as_frequent_as_the_budget_lets_them_it_still_holds() -> None:
    """Steps of 0.3 s; each save slows the next second, and its validation the one after that, by a tenth."""
    caps = IntervalCaps(min_s=0.5, max_s=2.0, overhead=0.05)
    scene = Scene(caps=caps, rate=rate_of(1.0, 1e4))
    staged_at, committed_at, cost, began = 0.0, -math.inf, 0.0, 0.0
    in_flight = False
    for number in range(4000):
        slow = in_flight or scene.now < committed_at + 1.0
        known = (
            in_flight or committed_at + 0.5 < scene.now < committed_at + 1.5
        )  # heard of half a second late
        took = 0.36 if slow else 0.3
        scene.steps(1, took, beside=known)
        if number == 400:
            cost, began = 0.0, scene.now
        cost += took - 0.3
        if in_flight and scene.now - staged_at >= 1.0:
            scene.saved(stall_s=0.002, persist_s=1.0)
            in_flight, committed_at = False, scene.now
        elif not in_flight and scene.controller.due(scene.now - staged_at):
            in_flight, staged_at = True, scene.now
    assert 0.01 < cost / (scene.now - began) <= 0.05
