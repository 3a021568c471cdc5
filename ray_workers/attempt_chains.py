"""Attempts of a log that are one training: a checkpoint actor that was started again has a fence of its own. Pure.

Such an attempt, an incarnation, chose no resume point: training never stopped. It goes on from the next lower fence,
which has no end in the log. After an end that the driver recorded another training begins (FORMAT.md §9).
"""

from __future__ import annotations

from ray_workers.policies.failure_causes import cause_of_end
from ray_workers.store.attempts import TAKEOVER
from ray_workers.store.run_state import AttemptState, RunState

__all__ = ["chain_of", "end_cause", "is_passed_on", "newest_chain"]


def newest_chain(state: RunState) -> tuple[AttemptState, ...]:
    """The newest training; empty before the first."""
    return chain_of(state, max(state.attempts)) if state.attempts else ()


def chain_of(state: RunState, fence: int) -> tuple[AttemptState, ...]:
    """The attempt with `fence` behind those that it goes on from, oldest first. The first one chose the resume point."""
    chain = [state.attempts[fence]]
    while (before := state.writer_before(chain[0])) is not None:
        chain.insert(0, before)
    return tuple(chain)


def end_cause(state: RunState, attempt: AttemptState) -> str:
    """What ended the attempt, one of `failure_causes.CAUSES`; `none` too when the next incarnation went on."""
    following = min((f for f in state.attempts if f > attempt.fence), default=None)
    if following is not None and state.writer_before(state.attempts[following]) == attempt:
        return "none"
    return cause_of_end(
        attempt.outcome,
        attempt.reason,
        open_now=state.open_fence == attempt.fence,
        passed_on=is_passed_on(state, attempt),
    )


def is_passed_on(state: RunState, attempt: AttemptState) -> bool:
    """The attempt's end is in no record, and another flow run, which asked for the takeover, took the fence next."""
    after = min((fence for fence in state.attempts if fence > attempt.fence), default=None)
    if attempt.outcome is not None or after is None:
        return False
    heir = state.attempts[after]
    return heir.flow_run_id != attempt.flow_run_id and bool(heir.by.get(TAKEOVER))
