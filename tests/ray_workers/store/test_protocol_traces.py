"""Histories that break a run unless a guard stands, played on the real log; and that each guard is what stands.

W1 is the attempt that is overtaken, W2 the new one. What may be picked and what is kept is in
`test_retention_traces`, what damage does in `test_damage_traces`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_workers.store import keys
from ray_workers.store.bodies import (
    AttemptEnded,
    AttemptStarted,
    Commit,
    RolledBack,
    RunCreated,
    Tagged,
)
from ray_workers.store.errors import FenceLostError, NewerFormatError, RuleRefusedError
from ray_workers.store.records import Author, Place, Record, _digest
from tests.support import guard_removals as removed
from tests.support.damage_removals import contradictions_ignored
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.plain_log import (
    RUN,
    RUN_ID,
    Trace,
    append,
    breaks_without_guard,
    commit,
    commit_body,
    folded,
    new_run,
    on_slot,
    open_log,
    refusal,
    start,
)

# --- fences ----------------------------------------------------------------------------------------------------


def a_zombie_commits() -> None:
    store, w1 = new_run()
    w2 = open_log(store)
    start(w2, flow="other")
    assert refusal(w1, commit_body(w1.state, fence=2)) is FenceLostError
    assert not folded(store).versions


def a_zombies_commit_is_under_way_when_the_fence_is_taken() -> None:
    inner, _ = new_run()
    store = FaultyStore(inner, on_slot(3, Fault.DELAY))

    def take_over_once() -> None:
        if folded(inner).slot == 2:
            start(open_log(inner), flow="other")

    w1 = open_log(store, meanwhile=take_over_once)
    assert refusal(w1, commit_body(w1.state, fence=2)) is FenceLostError
    assert [landing.refused for landing in store.land()] == [True]
    assert not folded(inner).versions


def a_writer_is_restarted_while_the_first_lives() -> None:
    store, first = new_run()
    second = open_log(store)
    fence = start(second, incarnation=1)
    commit(second, step=1, fence=fence)
    assert refusal(first, commit_body(first.state, fence=2)) is FenceLostError


def a_late_try_wakes_after_the_next_one_began() -> None:
    store, _ = new_run()
    second, late = open_log(store), open_log(store)
    fence = start(second, flow="again", count=2)
    body = AttemptStarted(flow_run_id="again", run_count=1, incarnation=5)
    assert refusal(late, body) is FenceLostError
    assert folded(store).open_fence == fence


def a_rolled_back_attempt_goes_on() -> None:
    _, w1 = new_run()
    first = commit(w1, step=1)
    commit(w1, step=2)
    append(w1, RolledBack(to=first))
    assert refusal(w1, commit_body(w1.state, fence=2)) is FenceLostError


def an_ended_attempt_goes_on() -> None:
    store, w1 = new_run()
    append(open_log(store), AttemptEnded(fence=2, outcome="crashed"))
    assert refusal(w1, commit_body(w1.state, fence=2)) is FenceLostError


def two_saves_commit_in_reverse() -> None:
    _, w1 = new_run()
    commit(w1, step=20)
    assert refusal(w1, replace(commit_body(w1.state, fence=2), step=10)) is RuleRefusedError


# --- answers that do not come ----------------------------------------------------------------------------------


def the_answer_to_a_commit_is_lost() -> None:
    inner, _ = new_run()
    w1 = open_log(FaultyStore(inner, on_slot(3, Fault.LOSE_RESPONSE)))
    assert refusal(w1, commit_body(w1.state, fence=2)) is None
    assert (folded(inner).slot, list(folded(inner).versions)) == (3, [1])


def a_commit_lands_after_its_timeout() -> None:
    inner, _ = new_run()
    store = FaultyStore(inner, on_slot(3, Fault.DELAY))
    w1 = open_log(store, meanwhile=store.land)
    assert refusal(w1, commit_body(w1.state, fence=2)) is None
    assert (folded(inner).slot, list(folded(inner).versions)) == (3, [1])


def another_record_took_the_slot() -> None:
    store, w1 = new_run()
    judge_of_nothing = Tagged(name="t", version=None, expects=None)
    append(open_log(store), judge_of_nothing)
    name = commit(w1, step=1)
    assert folded(store).find(name) is not None


# --- the chain -------------------------------------------------------------------------------------------------


def the_prefix_is_deleted_by_hand_and_a_zombies_commit_lands() -> None:
    inner, _ = new_run()
    store = FaultyStore(inner, on_slot(3, Fault.DELAY))

    def wipe_and_begin_again() -> None:
        for info in [*inner.list("")]:
            inner.delete(info.key)
        w2 = open_log(inner)
        append(w2, RunCreated(run_id="b" * 32))
        start(w2, flow="other")
        store.land()

    w1 = open_log(store, meanwhile=wipe_and_begin_again)
    assert refusal(w1, commit_body(w1.state, fence=2)) is None  # it did land, and is void
    assert not folded(inner).versions
    w2 = open_log(inner)
    assert w2.state.run_id == "b" * 32
    assert commit(w2, step=1).number == 1


def a_record_continues_what_is_not_there() -> None:
    store, w1 = new_run()
    stray = Record.seal(
        commit_body(w1.state, fence=2),
        place=Place(slot=3, run_id=RUN_ID, prev="0" * 64),
        author=Author(write_id="stray", by={}, at=""),
    )
    store.put_if_absent(keys.log_key(RUN, 3), stray.to_bytes())
    # Whatever slot 2 held when the stray was written, it was another record: nothing may rest on what stands there now.
    state = folded(store)
    assert (state.damaged, state.open_fence, list(state.versions)) == ((2,), None, [1])
    assert (w1.refresh().damaged, w1.state.head) == (state.damaged, state.head)


def a_newer_program_wrote_here() -> None:
    store, w1 = new_run()
    record = append(w1, Tagged(name="t", version=None, expects=None))
    newer = replace(record, kind="Invented")
    newer = replace(newer, digest=_digest(newer._envelope()))
    store.put(keys.log_key(RUN, record.slot), newer.to_bytes())
    assert refusal(open_log(store), commit_body(w1.state, fence=2)) is NewerFormatError


TRACES = [
    Trace(play.__name__, play, remove)
    for play, remove in [
        (a_zombie_commits, removed.no_fence_check),
        (a_zombies_commit_is_under_way_when_the_fence_is_taken, removed.no_fence_check),
        (a_writer_is_restarted_while_the_first_lives, removed.no_fence_check),
        (a_late_try_wakes_after_the_next_one_began, removed.no_rule(AttemptStarted)),
        (a_rolled_back_attempt_goes_on, removed.fence_stays_open(RolledBack)),
        (an_ended_attempt_goes_on, removed.fence_stays_open(AttemptEnded)),
        (two_saves_commit_in_reverse, removed.no_rule(Commit)),
        (the_answer_to_a_commit_is_lost, removed.never_ours),
        (a_commit_lands_after_its_timeout, removed.gives_up_without_answer),
        (another_record_took_the_slot, removed.always_ours),
        (the_prefix_is_deleted_by_hand_and_a_zombies_commit_lands, removed.all_effective),
        (a_record_continues_what_is_not_there, contradictions_ignored),
        (a_newer_program_wrote_here, removed.unknown_kinds_ignored),
    ]
]
each_trace = pytest.mark.parametrize("trace", TRACES, ids=[trace.name for trace in TRACES])


@each_trace
def test_the_trace_does_no_harm(trace):
    trace.play()


@each_trace
def test_the_guard_is_what_makes_it_harmless(trace, monkeypatch):
    assert breaks_without_guard(trace, monkeypatch)
