"""Lines a second, with a burst, and a count of what was left out."""

from __future__ import annotations

import pytest

from ray_workers.policies.line_budget import LineBudget


def test_a_burst_then_the_rate() -> None:
    budget = LineBudget(per_second=2, burst=3)
    assert [budget.take(10.0) for _ in range(5)] == [True, True, True, False, False]
    assert budget.left_out() == 2
    assert budget.left_out() == 0
    assert [budget.take(11.0) for _ in range(3)] == [True, True, False]
    assert [budget.take(100.0) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("seconds", [10, 1000])
def test_in_the_long_run_no_more_than_the_rate_goes_on(seconds: int) -> None:
    budget = LineBudget(per_second=5, burst=10)
    passed = sum(budget.take(t / 100) for t in range(seconds * 100))
    assert passed + budget.left_out() == seconds * 100
    assert 5 * seconds <= passed <= 5 * seconds + 10


def test_a_rate_of_none_lets_none_through() -> None:
    budget = LineBudget(per_second=0, burst=3)
    assert not budget.take(1.0)
    assert budget.left_out() == 1
