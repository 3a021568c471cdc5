import pytest

from benchmarks.ratios import Bar, Ratio, summarise


def ratio(low, high, pairs=15):
    return Ratio(median=(low + high) / 2, low=low, high=high, pairs=pairs)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (ratio(0.9, 1.0), "aim reached"),
        (ratio(0.9, 1.1), "reached"),
        (ratio(1.1, 1.3), "not resolved"),
        (ratio(1.25, 1.3), "not reached"),
        (ratio(0.9, 1.0, pairs=4), "not resolved"),
    ],
)
def test_a_bar_is_reached_when_the_worse_end_meets_it(interval, verdict):
    assert Bar(at_least=1.2, aim=1.05).verdict(interval) == verdict


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (ratio(0.995, 1.1), "aim reached"),
        (ratio(0.98, 1.1), "reached"),
        (ratio(0.9, 0.98), "not resolved"),
        (ratio(0.8, 0.9), "not reached"),
    ],
)
def test_where_larger_is_better_the_lower_end_counts(interval, verdict):
    assert Bar(at_least=0.97, aim=0.99, larger_is_better=True).verdict(interval) == verdict


def test_the_median_of_the_ratios_lies_in_its_interval():
    found = summarise([(2.0, 1.0), (3.0, 1.0), (30.0, 10.0), (5.0, 1.0), (100.0, 1.0)])
    assert found.median == 3.0
    assert found.low <= 3.0 <= found.high <= 100.0
    assert found.pairs == 5
    assert summarise([(1.0, 2.0)] * 9) == Ratio(median=0.5, low=0.5, high=0.5, pairs=9)


@pytest.mark.parametrize("pairs", [[], [(1.0, 0.0)]])
def test_nothing_is_made_of_nothing(pairs):
    with pytest.raises(ValueError, match="positive"):
        summarise(pairs)
