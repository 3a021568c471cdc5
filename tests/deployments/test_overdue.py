from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType

from deployments.automations import ComeBack
from deployments.overdue import LOOK_BACK, Overdue, SeenRun

RULES = ComeBack(
    max_runs=3, backoff_seconds=(30, 300), lost_after_seconds=150, stuck_after_seconds=900
)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
ID = UUID("6b8cd2cf-6d05-4c1f-b6d8-0a1c6a06f7a0")


def run(state: StateType, since_s: float, *, silent_s: float | None = None, **other: object):
    since = NOW - timedelta(seconds=since_s)
    known = {
        "id": ID, "name": "sly-fox", "state": state, "since": since, "tries": 1, "has_deployment": True,
        "last_sign": since if silent_s is None else NOW - timedelta(seconds=silent_s),
    }  # fmt: skip
    return SeenRun(**{**known, **other})  # type: ignore[arg-type]


def proposed(seen: SeenRun, **given: object) -> list[str]:
    overdue = Overdue(rules=RULES, **given)  # type: ignore[arg-type]
    return [step.name or step.state.value for step in overdue.steps(seen, NOW)]


def test_a_silent_run_is_crashed_and_tried_again():
    silent = run(StateType.RUNNING, 9000, silent_s=600)
    assert proposed(silent) == ["CRASHED", "AwaitingRetry"]
    assert [step.message for step in Overdue(rules=RULES).steps(silent, NOW)] == [
        "No heartbeat for 600 seconds.",
        "Crashed, unanswered; try 2 of 3.",
    ]


def test_a_run_that_beats_is_never_touched_however_long_it_runs():
    assert proposed(run(StateType.RUNNING, 9000, silent_s=150)) == []
    assert proposed(run(StateType.RUNNING, 9000, silent_s=-30)) == []  # its clock is ahead


@pytest.mark.parametrize(
    ("tries", "age_s", "expected"),
    [
        (0, 29, []),
        (0, 31, ["AwaitingRetry"]),
        (1, 29, []),
        (1, 31, ["AwaitingRetry"]),
        (2, 299, []),  # the wait before the third try has not ended: Prefect still keeps it
        (2, 301, ["AwaitingRetry"]),
        (3, 100_000, []),  # at the cap
        (9, 100_000, []),
    ],
)
def test_a_crash_is_answered_after_its_wait_and_below_the_cap(tries, age_s, expected):
    assert proposed(run(StateType.CRASHED, age_s, tries=tries)) == expected


def test_a_silent_run_in_its_last_try_is_crashed_and_no_more():
    assert proposed(run(StateType.RUNNING, 9000, silent_s=600, tries=3)) == ["CRASHED"]


def test_a_run_that_was_given_up_stays_so_when_more_tries_are_allowed():
    assert proposed(run(StateType.CRASHED, 9000), given_up=frozenset({ID})) == []


def test_a_crash_of_long_ago_is_left():
    assert proposed(run(StateType.CRASHED, LOOK_BACK.total_seconds() + 1)) == []


@pytest.mark.parametrize(
    "state",
    [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.SCHEDULED, StateType.PAUSED],
)  # fmt: skip
def test_what_a_person_may_have_ended_or_holds_is_left(state):
    assert proposed(run(state, 100_000)) == []


@pytest.mark.parametrize("state", list(StateType))
def test_a_run_without_a_deployment_is_left(state):
    assert proposed(run(state, 100_000, has_deployment=False)) == []


def test_what_is_stuck_goes_on():
    assert proposed(run(StateType.PENDING, 901)) == ["CRASHED", "AwaitingRetry"]
    assert proposed(run(StateType.PENDING, 899)) == []
    assert proposed(run(StateType.CANCELLING, 901)) == ["CANCELLED"]
    assert proposed(run(StateType.CANCELLING, 899)) == []
