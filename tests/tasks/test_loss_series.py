import math

import pytest

from tasks.loss_series import (
    MAX_SERIES,
    loss_of,
    loss_scale,
    medians,
    series_by_attempt,
    step_scale,
    thinned,
)
from tests.support.made_up_reports import Life, made_up_report, with_version


def test_a_series_belongs_to_its_attempt_and_is_in_order():
    curve = ((3, 0.3, 1), (1, 0.1, 1), (2, 0.2, 2))
    report = made_up_report([], curve=curve)
    assert series_by_attempt(report.curve) == {1: [(1, 0.1), (3, 0.3)], 2: [(2, 0.2)]}


def test_the_oldest_of_very_many_attempts_are_taken_together():
    curve = tuple((n, 1.0, n) for n in range(1, 3 * MAX_SERIES))
    series = series_by_attempt(curve)
    assert len(series) == MAX_SERIES
    assert sum(map(len, series.values())) == len(curve)


def test_thinning_keeps_extremes_and_what_is_not_finite():
    points = [(n, 1.0) for n in range(1000)]
    points[500], points[700], points[900] = (500, 9.0), (700, -9.0), (900, math.nan)
    kept = list(thinned(points, 50))
    assert len(kept) <= 60
    assert {(500, 9.0), (700, -9.0)} <= set(kept)
    assert any(math.isnan(loss) for _, loss in kept)


def test_medians_ignore_a_wild_value_and_show_a_gap():
    points = [(n, 1.0) for n in range(100)]
    points[5] = (5, 1e9)
    points[50:60] = [(n, math.nan) for n in range(50, 60)]
    found = list(medians(points, 10))
    assert [loss for _, loss in found[:5]] == [1.0] * 5
    assert math.isnan(found[5][1])


def test_a_late_run_does_not_begin_at_nought():
    late = made_up_report([Life(resumed_from="other@7", until=750)], start_step=700)
    assert step_scale(late, series_by_attempt(late.curve), 0, 100).low == 701
    early = made_up_report([Life(until=750)])
    assert step_scale(early, series_by_attempt(early.curve), 0, 100).low == 0


@pytest.mark.parametrize("losses", [[0.0], [2.0, 2.0], [-1.0, 1.0], [1e-9, 1e9], [0.0, 1e-300]])
def test_any_losses_fit_their_scale(losses):
    scale = loss_scale(losses, 300, 0)
    assert all(0 <= scale(loss) <= 300 for loss in losses)


def test_a_version_s_loss_counts_only_if_finite():
    report = made_up_report([Life(until=150)])
    assert loss_of(report.versions[0]) is not None
    assert loss_of(with_version(report, 1, metrics={"loss": math.inf}).versions[0]) is None
    assert loss_of(with_version(report, 1, metrics={}).versions[0]) is None
