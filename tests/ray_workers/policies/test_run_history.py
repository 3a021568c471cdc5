from __future__ import annotations

import pytest

from ray_workers.policies.run_history import Spell, cause_of_spell, evidence_elsewhere

EXCEPTION = "Flow run encountered an exception: {}"
HOUR = 3600.0


def spell(flow: str, count: int, begin_h: float, end_h: float | None, ended: str | None) -> Spell:
    return Spell(
        flow_run_id=flow, run_count=count, begin_s=begin_h * HOUR, workers=4, ended=ended,
        end_s=None if end_h is None else end_h * HOUR,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ended", "message", "cause"),
    [
        ("crashed", "Process exited with status code: -9", "infrastructure"),
        ("crashed", "No heartbeat for 540 seconds.", "infrastructure"),
        ("crashed", "Execution was aborted by a termination signal.", "asked"),
        ("crashed", "Execution was aborted by an interrupt signal.", "asked"),
        ("crashed", "Execution was cancelled by the runtime environment.", "asked"),
        ("cancelled", "", "asked"),
        ("completed", "", "none"),
        (None, "", "none"),
        ("failed", EXCEPTION.format("InvalidInputError: no such loop"), "user"),
        ("failed", "Validation of flow parameters failed", "user"),
        (
            "failed",
            EXCEPTION.format("RankHungError: Run 'r': Rank 1 took no step"),
            "infrastructure",
        ),
        ("failed", EXCEPTION.format("StoreUnavailableError: away"), "infrastructure"),
        ("failed", EXCEPTION.format("AttemptInterruptedError: time limit: …"), "asked"),
        (
            "failed",
            EXCEPTION.format(
                "TrainingFailedError: Training of run 'r' failed on rank 0: ValueError: mine"
            ),
            "user",
        ),
        (
            "failed",
            EXCEPTION.format(
                "TrainingFailedError: Training of run 'r' failed on rank 0: ActorDiedError: gone"
            ),
            "infrastructure",
        ),
    ],
)
def test_user_errors_and_wishes_are_no_failures_of_machines(ended, message, cause) -> None:
    assert cause_of_spell(ended, message) == cause


def test_what_stands_in_the_log_is_not_counted_twice() -> None:
    spells = [
        spell("b", 1, 4, 6, "crashed"),
        spell("a", 1, 0, 2, "crashed"),
        spell("a", 2, 2, 3, "crashed"),
    ]
    found = evidence_elsewhere(spells, in_log={("a", 1)}, now_s=10 * HOUR)
    assert [(e.failures, e.worker_hours, e.age_hours) for e in found] == [(1, 4, 7), (1, 8, 4)]
    assert evidence_elsewhere(spells, in_log={s.key for s in spells}, now_s=10 * HOUR) == ()


def test_hours_without_a_failure_count_too_and_what_runs_now_runs_until_now() -> None:
    found = evidence_elsewhere(
        [spell("a", 1, 0, 5, "completed"), spell("b", 1, 8, None, None)],
        in_log=set(),
        now_s=10 * HOUR,
    )
    assert [(e.failures, e.worker_hours, e.age_hours) for e in found] == [(0, 20, 5), (0, 8, 0)]


def test_a_crash_that_the_log_took_for_a_takeover_is_a_failure_whose_hours_the_log_has() -> None:
    spells = [spell("a", 1, 0, 2, "crashed"), spell("b", 1, 2, 3, "cancelled")]
    keys = {s.key for s in spells}
    found = evidence_elsewhere(spells, in_log=keys, open_ended=keys, now_s=10 * HOUR)
    assert [(e.failures, e.worker_hours, e.age_hours) for e in found] == [(1, 0, 8)]
