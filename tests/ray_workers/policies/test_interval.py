import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ray_workers.policies.interval import (
    IntervalCaps,
    IntervalFacts,
    bytes_per_save,
    decide_interval,
    optimal_interval_s,
)
from ray_workers.store.errors import InvalidInputError

SECONDS = st.floats(min_value=0, max_value=1e5)
FACTS = st.builds(
    IntervalFacts,
    stall_s=SECONDS,
    mean_cost_s=st.none() | SECONDS,
    persist_s=SECONDS,
    slowdown=st.floats(min_value=0, max_value=2),
    restore_s=SECONDS,
    mtbf_s=st.floats(min_value=1, max_value=1e9),
    bytes=st.integers(0, 10**13),
    flights=st.integers(1, 8),
)


@st.composite
def caps(draw):
    shortest = draw(st.floats(min_value=0.1, max_value=1e4))
    budget = st.none() | st.floats(min_value=1, max_value=1e15)
    return IntervalCaps(
        min_s=shortest,
        max_s=shortest * draw(st.floats(min_value=1, max_value=1e4)),
        overhead=draw(st.floats(min_value=1e-4, max_value=1)),
        network_bytes_s=draw(budget),
        storage_bytes_day=draw(budget),
    )


def facts(**changed):
    return replace(IntervalFacts(stall_s=0.5, persist_s=10.0, mtbf_s=10_800.0), **changed)


OPEN = IntervalCaps(min_s=0.001, max_s=1e9, overhead=1.0)


@pytest.mark.parametrize(("cost", "mtbf"), [(0.01, 1e4), (1.0, 1e5), (5.0, 1e7)])
def test_for_cheap_saves_it_is_youngs_interval(cost, mtbf):
    assert optimal_interval_s(cost, mtbf) == pytest.approx(math.sqrt(2 * cost * mtbf), rel=0.01)


@pytest.mark.parametrize(("cost", "mtbf"), [(1.0, 100.0), (30.0, 100.0), (100.0, 100.0)])
def test_no_other_interval_makes_the_expected_time_shorter(cost, mtbf):
    """The time that a unit of work takes with restarts at once: (exp((w + cost) / mtbf) - 1) / w."""

    def expected(interval):
        return math.expm1(interval / mtbf) / (interval - cost)

    best = optimal_interval_s(cost, mtbf)
    for factor in (0.9, 0.99, 1.01, 1.1):
        other = cost + factor * (best - cost)
        assert expected(best) <= expected(other) * (1 + 1e-9)


@given(FACTS, caps())
def test_the_interval_is_within_every_cap(measured, allowed):
    decided = decide_interval(measured, allowed)
    assert decided.seconds >= allowed.min_s
    assert decided.seconds >= measured.persist_s / measured.flights
    assert decided.overhead <= allowed.overhead * (1 + 1e-9)
    if allowed.network_bytes_s:
        assert measured.bytes <= allowed.network_bytes_s * decided.seconds * (1 + 1e-9)
    if allowed.storage_bytes_day:
        day = measured.bytes * 86_400 / decided.seconds
        assert day <= allowed.storage_bytes_day * (1 + 1e-9)
    if decided.seconds > allowed.max_s:
        assert decided.bound_by in ("persist", "overhead", "network", "storage")
    assert math.isfinite(decided.waste)
    assert decided.waste >= 0


@given(FACTS, caps(), st.floats(min_value=1, max_value=100))
def test_dearer_saves_never_come_more_often_and_more_failures_never_less_often(
    measured, allowed, factor
):
    decided = decide_interval(measured, allowed)
    dearer = replace(measured, stall_s=measured.stall_s * factor + 0.01)
    assert decide_interval(dearer, allowed).seconds >= decided.seconds * (1 - 1e-9)
    slower = replace(measured, persist_s=measured.persist_s * factor)
    assert decide_interval(slower, allowed).seconds >= decided.seconds * (1 - 1e-9)
    worse = replace(measured, mtbf_s=measured.mtbf_s / factor)
    assert decide_interval(worse, allowed).seconds <= decided.seconds * (1 + 1e-9)


@given(FACTS, caps())
def test_there_is_no_jump_anywhere_not_even_where_a_cap_begins_to_hold(measured, allowed):
    """A hundredth of a percent more of everything changes the interval by no more than a few of them."""
    assume(measured.cost_s > 2e-4)
    nudge = 1 + 1e-4
    before = decide_interval(measured, allowed).seconds
    for changed in (
        replace(measured, stall_s=measured.stall_s * nudge),
        replace(measured, persist_s=measured.persist_s * nudge),
        replace(measured, mtbf_s=measured.mtbf_s * nudge),
        replace(measured, mean_cost_s=(measured.mean_cost_s or 0.0) * nudge),
    ):
        after = decide_interval(changed, allowed).seconds
        assert abs(after - before) <= 3e-4 * before


@pytest.mark.parametrize(
    ("measured", "allowed", "bound", "seconds"),
    [
        (facts(), OPEN, "least waste", None),
        (facts(persist_s=600.0), OPEN, "persist", 600.0),
        (facts(persist_s=600.0, flights=3), OPEN, "persist", 200.0),
        (facts(stall_s=30.0), replace(OPEN, overhead=0.01), "overhead", 3020.0),
        (facts(mean_cost_s=3.0), replace(OPEN, overhead=0.01), "overhead", 320.0),
        (facts(mean_cost_s=3.0), OPEN, "least waste", None),
        (facts(bytes=10**9), replace(OPEN, network_bytes_s=1e6), "network", 1000.0),
        (facts(bytes=10**9), replace(OPEN, storage_bytes_day=8.64e10), "storage", 1000.0),
        (facts(), replace(OPEN, min_s=500.0), "min", 500.0),
        (facts(), replace(OPEN, max_s=60.0), "max", 60.0),
        (facts(persist_s=90.0), replace(OPEN, max_s=60.0), "persist", 90.0),
    ],
)
def test_the_cap_that_holds_is_named(measured, allowed, bound, seconds):
    decided = decide_interval(measured, allowed)
    assert decided.bound_by == bound
    assert seconds is None or decided.seconds == pytest.approx(seconds)


def test_the_slowdown_while_uploading_is_a_cost_and_the_restart_is_none():
    slowed = decide_interval(facts(slowdown=0.1), OPEN)
    assert slowed.seconds == pytest.approx(optimal_interval_s(1.5, 10_800.0))
    assert (
        decide_interval(facts(restore_s=900.0), OPEN).seconds
        == decide_interval(facts(), OPEN).seconds
    )
    assert decide_interval(facts(restore_s=900.0), OPEN).loss > decide_interval(facts(), OPEN).loss


@pytest.mark.parametrize(
    "wrong",
    [{"min_s": 0}, {"min_s": 10, "max_s": 5}, {"overhead": 0}, {"network_bytes_s": -1.0}],
)
def test_caps_that_allow_nothing_are_refused(wrong):
    with pytest.raises(InvalidInputError):
        IntervalCaps(**wrong)


def test_a_group_that_always_fails_is_refused():
    with pytest.raises(InvalidInputError, match="above 0"):
        facts(mtbf_s=0.0)


@pytest.mark.parametrize(
    ("new", "full_every", "sent"),
    [
        ((), 16, 1600),  # nothing is known: a whole version
        ((1600, 1600, 1600), 16, 1600),
        ((1600, 10, 10), 1, 1600),
        ((1600, 10), 16, 10 + 99),  # the first one sends everything
        ((10, 1600, 10, 12, 11), 16, 11 + 99),
    ],
)
def test_a_save_sends_what_changes_and_its_share_of_the_whole(new, full_every, sent):
    assert bytes_per_save(new, whole=1600, full_every=full_every) == sent
