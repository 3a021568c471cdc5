import pytest

from ray_workers.drilling import DrillOutcome
from tasks.drill_page import DrillReport, Undone, compared, drill_page

EVIDENCE = {
    "seconds": 7.25, "verify_s": 0.5, "cluster_s": 3.0, "start_s": 2.0, "restore_s": 1.5, "first_step_s": 0.25,
    "workers": 2, "metric": "loss", "value": 0.5, "value_recorded": 0.5, "bit_identical": True, "probe_saved": 1.0,
}  # fmt: skip


def outcome(*, passed=True, **more):
    return DrillOutcome(run="digits", number=3, step=15, passed=passed, **more)


def test_a_drill_that_passed_is_a_line_with_its_phases():
    report = DrillReport(outcomes=(outcome(evidence=EVIDENCE),))
    assert report.failed == 0
    assert report.headline == "1 of 1 drills passed, the slowest in 7.2 s"
    line = next(line for line in drill_page(report).splitlines() if line.startswith("| digits@3"))
    assert line == (
        "| digits@3 | 15 | 2 | restorable | 0.50 | 3.00 | 2.00 | 1.50 | 0.25 | 7.25 s | probe; loss, bit\\-identical |"
    )


def test_what_failed_and_what_could_not_be_made_come_with_their_reasons():
    bad = outcome(passed=False, reason="the loop | failed", quarantined=True)
    report = DrillReport(
        outcomes=(outcome(evidence=EVIDENCE), bad), undone=(Undone(run="gpt", reason="no store"),)
    )
    assert report.failed == 2
    assert report.headline.startswith("1 of 2 drills passed")
    assert "1 could not be made. digits@3: the loop | failed" in report.headline
    page = drill_page(report)
    assert "digits@3 (quarantined): the loop" in page
    assert "- gpt: no store" in page
    assert "| the loop |" not in page


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({}, "nothing"),
        ({"changes": "torch 1 → 2"}, "other conditions: torch 1 → 2"),
        ({"value_recorded": 1.0, "metric": "loss", "bit_identical": False}, "loss"),
    ],
)
def test_what_was_compared_is_said(evidence, words):
    assert compared(outcome(evidence=evidence)) == words


def test_nothing_to_drill_is_no_failure():
    report = DrillReport(outcomes=())
    assert (report.failed, report.headline) == (0, "0 of 0 drills passed")
    assert drill_page(report) == "# Restore drills\n\n0 of 0 drills passed\n"


def test_a_drill_that_could_not_be_made_says_why_in_one_line():
    report = DrillReport(outcomes=(), undone=(Undone(run="a@1", reason="No Ray cluster answers"),))
    assert report.headline == (
        "0 of 0 drills passed; 1 could not be made. a@1: No Ray cluster answers"
    )
