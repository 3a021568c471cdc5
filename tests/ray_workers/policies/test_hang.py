from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.policies.hang import HangRule, RankPulse
from ray_workers.store.errors import InvalidInputError

RULE = HangRule(at_least_s=60, steps=30)
LONG_AGO = 1e9


def pulse(rank: int = 0, *, silent_s: float = 0.0, **values) -> RankPulse:
    usual = {"step": 50, "gaps": 40, "median_s": 1.0, "longest_s": 2.0}
    return RankPulse(rank=rank, pid=100 + rank, silent_s=silent_s, **{**usual, **values})


def hung(*pulses: RankPulse, rested_s: float = LONG_AGO, rule: HangRule = RULE) -> list[int]:
    return [found.rank for found in rule.hung(pulses, rested_s=rested_s)]


def test_a_rank_that_stands_still_is_found_and_one_that_steps_is_not() -> None:
    assert hung(pulse(0, silent_s=1), pulse(1, silent_s=61)) == [1]
    assert hung(pulse(0, silent_s=60), pulse(1, silent_s=60)) == []
    assert hung() == []


@pytest.mark.parametrize(
    ("shown", "limit_s"),
    [
        ({"median_s": 0.01, "longest_s": 0.02}, 60),  # the user's time
        ({"median_s": 10.0, "longest_s": 12.0}, 300),  # many steps
        ({"median_s": 1.0, "longest_s": 500.0}, 1000),  # evaluates in the middle of epochs
        ({"between_epochs": True}, 360),  # evaluates after the last batch
    ],
)
def test_what_its_steps_showed_until_now_decides_how_long_it_may_take(shown, limit_s) -> None:
    assert hung(pulse(silent_s=limit_s, **shown)) == []
    assert hung(pulse(silent_s=limit_s + 1, **shown)) == [0]


def test_first_steps_compile_and_never_count() -> None:
    assert hung(pulse(silent_s=LONG_AGO, gaps=4)) == []
    assert hung(pulse(0, silent_s=LONG_AGO), pulse(1, silent_s=LONG_AGO, gaps=4)) == []


def test_ranks_that_wait_for_one_that_rests_do_not_hang_nor_right_after_it() -> None:
    waits = pulse(1, silent_s=5000)
    assert hung(pulse(0, silent_s=5000, resting=True), waits) == []
    assert hung(pulse(0, silent_s=10), waits, rested_s=10) == []
    assert hung(pulse(0, silent_s=61), waits, rested_s=61) == [0, 1]


@given(
    st.floats(0.001, 1e4),
    st.floats(0.001, 1e4),
    st.floats(0.1, 1e4),
    st.floats(1.1, 100),
    st.booleans(),
)
def test_the_limit_is_never_below_any_of_its_parts(median, longest, least, steps, between) -> None:
    rule = HangRule(at_least_s=least, steps=steps)
    one = pulse(median_s=median, longest_s=longest, between_epochs=between)
    limit = rule.limit_s(one)
    assert limit >= max(least, steps * median, 2 * longest)
    assert hung(replace(one, silent_s=limit), rule=rule) == []


@pytest.mark.parametrize("values", [(0, 30), (60, 0)])
def test_a_rule_without_a_limit_is_refused(values) -> None:
    with pytest.raises(InvalidInputError):
        HangRule(at_least_s=values[0], steps=values[1])
