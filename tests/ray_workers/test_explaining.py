from __future__ import annotations

import pytest

from ray_workers.explaining import PHASES, interruptions
from ray_workers.report import AttemptRow
from tests.support.interruptions import STARTUP, at, attempt, report, version


def test_an_exception_is_taken_apart_by_phase():
    first = attempt(
        1, 0, ended_at=at(130), outcome="failed", reason="failed on rank 1: RuntimeError"
    )
    second = attempt(2, 140, resumed_from="1", resumed_at=at(145), steps_lost=20)
    own = [version(2, 2, 200, 200, startup=STARTUP), version(3, 2, 300, 300, startup=STARTUP)]
    (found,) = interruptions(report([first, second], [version(1, 1, 100, 100), *own]))
    assert (found.what, found.detail, found.host) == ("exception", first.reason, "node-1")
    assert (found.resumed, found.step, found.steps_lost) == ("1", 100, 20)
    assert found.seconds == {
        "in vain": 30, "schedule": 10, "choose": 5, "verify": 1, "start": 2, "restore": 3, "warm up": 0.5, "redo": 20,
    }  # fmt: skip
    assert list(found.seconds) == [phase for phase in PHASES if phase in found.seconds]
    assert found.total == pytest.approx(71.5)
    assert found.to_json()["seconds"]["redo"] == 20


def test_a_crash_leaves_no_end_and_what_is_not_known_is_left_out():
    first = attempt(1, 0, outcome="lost", reason="its end was not recorded")
    second = attempt(2, 140, resumed_from="1", resumed_at=at(145))
    (found,) = interruptions(report([first, second], [version(1, 1, 100, 100)]))
    assert found.what == "crash"
    assert found.seconds == {"in vain": 0, "unnoticed": 40, "choose": 5}


@pytest.mark.parametrize(
    ("outcome", "reason", "what"),
    [
        ("completed", None, "completed"),
        ("failed", "ValueError", "exception"),
        ("interrupted", "TerminationSignal", "cancelled"),
        ("interrupted", "cancelled", "cancelled"),
        ("interrupted", "Ctrl-C", "Ctrl-C"),
        ("interrupted", "SIGTERM (TerminationSignal)", "SIGTERM"),
        ("interrupted", "time limit: Run 'r' was interrupted at step 3", "time limit"),
        ("interrupted", "node draining: Run 'r' was interrupted", "preempted"),
        ("interrupted", "preempted: node-3 goes in 30 s", "preempted"),
        ("lost", None, "crash"),
    ],
)
def test_what_ended_it(outcome, reason, what):
    rows = [attempt(1, 0, outcome=outcome, reason=reason, ended_at=at(5)), attempt(2, 10)]
    assert interruptions(report(rows, []))[0].what == what


def test_a_pause_after_a_finished_attempt_costs_nothing():
    rows = [attempt(1, 0, outcome="completed", ended_at=at(5)), attempt(2, 500)]
    assert "schedule" not in interruptions(report(rows, []))[0].seconds


def test_another_incarnation_of_one_attempt_is_its_actor_started_again():
    first = AttemptRow(
        number=1, fence=1, incarnation=0, flow_run_id="f", run_count=1, started_at=at(0), outcome="lost", host="h",
    )  # fmt: skip
    second = AttemptRow(
        number=2, fence=5, incarnation=1, flow_run_id="f", run_count=1, started_at=at(9), host="h"
    )
    assert interruptions(report([first, second], []))[0].what == "actor restarted"


def test_times_that_cannot_be_read_are_unknown():
    rows = [
        attempt(1, 0, outcome="failed", ended_at="once"),
        AttemptRow(number=2, fence=2, incarnation=0, flow_run_id="f", run_count=2, started_at="x", host="h"),
    ]  # fmt: skip
    assert interruptions(report(rows, []))[0].seconds == {}
