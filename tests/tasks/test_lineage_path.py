import math
from dataclasses import replace

from tasks.lineage_path import lanes, redone_spans, thin_versions
from tests.support.made_up_reports import Life, killed_twice, made_up_report


def test_an_attempt_starts_at_the_step_of_the_version_it_resumed():
    assert [lane.start for lane in lanes(killed_twice())] == [0, 400, 600]


def test_an_attempt_reaches_as_far_as_its_curve_goes():
    assert [lane.reached for lane in lanes(killed_twice())] == [543, 737, 1187]


def test_only_work_below_the_next_resume_point_counts():
    assert [lane.counts_to for lane in lanes(killed_twice())] == [400, 600, math.inf]


def test_an_attempt_that_nobody_resumed_counts_for_nothing():
    report = made_up_report(
        [
            Life(until=350, outcome="crashed"),
            Life(resumed_from="3", until=520, outcome="crashed"),
            Life(resumed_from="2", until=400),
        ]
    )
    first, second, third = lanes(report)
    assert (first.counts_to, third.counts_to) == (200, math.inf)
    assert second.counts_to < second.start


def test_an_attempt_that_has_not_chosen_yet_takes_nothing_away():
    report = made_up_report([Life(until=350, outcome="crashed"), Life(until=0)])
    assert lanes(report)[0].counts_to == math.inf


def test_an_actor_started_again_takes_nothing_away_either():
    lives = [Life(until=350, outcome="lost"), Life(resumed_from="3", until=500)]
    report = made_up_report(lives)
    first, second = report.attempts
    report = replace(report, attempts=(first, replace(second, restarted=True, steps_lost=0)))
    assert [lane.counts_to for lane in lanes(report)] == [300, math.inf]
    assert redone_spans(lanes(report)) == ()


def test_a_fork_starts_at_the_step_of_the_other_run_s_version():
    report = made_up_report([Life(resumed_from="other@7", until=950)], start_step=700)
    (lane,) = lanes(report)
    assert (lane.start, lane.origin, lane.parent) == (700, "other@7", None)
    assert redone_spans([lane]) == ()


def test_redone_steps_reach_from_the_resume_point_to_where_the_last_one_died():
    assert redone_spans(lanes(killed_twice())) == ((400, 543), (600, 737))


def test_spans_that_touch_become_one():
    report = made_up_report(
        [
            Life(until=350, outcome="crashed"),
            Life(resumed_from="2", until=450, outcome="crashed"),
            Life(resumed_from="3", until=500),
        ]
    )
    assert redone_spans(lanes(report)) == ((200, 450),)


def test_a_parent_that_is_its_own_ancestor_does_not_hang():
    report = made_up_report([Life(resumed_from="1", until=200)])
    assert lanes(report)[0].counts_to == math.inf


def test_thinning_keeps_the_newest_the_chosen_and_the_bad():
    report = killed_twice()
    kept = [version.number for version in thin_versions(report.versions, 8, report.newest_sound)]
    assert kept == [1, 5, 8, 9, 11, 13]


def test_few_versions_are_all_kept():
    report = killed_twice()
    assert thin_versions(report.versions, 100, None) == report.versions
