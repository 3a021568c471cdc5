"""Which attempts of a log are one training."""

from __future__ import annotations

from ray_workers.attempt_chains import chain_of, end_cause, newest_chain
from ray_workers.store.run_state import AttemptState, RunState

AT = "2026-01-01T00:00:00+00:00"


def log(*attempts: tuple[int, int, int, str | None], open_fence: int | None = None) -> RunState:
    """Of each attempt: fence, run count, incarnation, outcome."""
    state = RunState(run="r", open_fence=open_fence)
    for fence, run_count, incarnation, outcome in attempts:
        state.attempts[fence] = AttemptState(
            fence=fence, flow_run_id="f", run_count=run_count, incarnation=incarnation, by={}, at=AT, outcome=outcome,
        )  # fmt: skip
    return state


def fences(state: RunState, fence: int) -> list[int]:
    return [attempt.fence for attempt in chain_of(state, fence)]


def causes(state: RunState) -> list[str]:
    return [end_cause(state, attempt) for attempt in state.attempts.values()]


def test_before_the_first_attempt_there_is_no_training() -> None:
    assert newest_chain(log()) == ()


def test_a_restarted_actor_goes_on_with_the_training() -> None:
    state = log((2, 1, 0, None), (5, 1, 1, None), (9, 1, 2, None), open_fence=9)
    assert [attempt.fence for attempt in newest_chain(state)] == [2, 5, 9]
    assert fences(state, 5) == [2, 5]
    assert causes(state) == ["none", "none", "none"]


def test_another_try_is_another_training_and_what_it_follows_was_lost() -> None:
    state = log((2, 1, 0, None), (5, 1, 1, None), (9, 2, 0, None), open_fence=9)
    assert (fences(state, 9), fences(state, 5)) == ([9], [2, 5])
    assert causes(state) == ["none", "infrastructure", "none"]


def test_a_group_of_another_size_begins_anew_because_the_end_before_it_is_recorded() -> None:
    state = log((2, 1, 0, "interrupted"), (5, 1, 1, None), open_fence=5)
    assert fences(state, 5) == [5]
    assert causes(state) == ["asked", "none"]


def test_a_job_that_was_adopted_stays_one_training() -> None:
    state = log((2, 1, 0, None), (5, 2, 1, None), open_fence=5)  # try 2 adopted fence 5
    assert fences(state, 5) == [2, 5]
    assert causes(state) == ["none", "none"]
