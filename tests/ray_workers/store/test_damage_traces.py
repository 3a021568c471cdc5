"""Records that turn bad or disappear, and caches that tell something else than the log, played on the real log."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace

import pytest

from ray_workers.store import keys, log
from ray_workers.store.bodies import (
    AttemptEnded,
    Repaired,
    Retire,
    RunCreated,
    RunDeleted,
    Tagged,
)
from ray_workers.store.errors import ConflictError, FenceLostError, RuleRefusedError
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.log import CACHE_EVERY_SLOTS
from ray_workers.store.memory import MemoryStore
from ray_workers.store.records import Author, Place, Record, canonical_json
from ray_workers.store.run_state import FOLD_VERSION, RunState
from tests.support import damage_removals as removed
from tests.support.damage_removals import OLDER_FOLD
from tests.support.faulty_store import Call, Fault, FaultyStore, Plan
from tests.support.plain_log import (
    RUN,
    RUN_ID,
    Trace,
    append,
    breaks_without_guard,
    commit,
    commit_body,
    damage,
    folded,
    judge,
    lose,
    new_run,
    open_log,
    refusal,
    start,
)

# --- a record turns bad ----------------------------------------------------------------------------------------


def the_start_of_w2_is_damaged() -> None:
    store, _ = new_run()
    w2 = open_log(store)
    start(w2, flow="other")
    damage(store, 3)
    late = open_log(store)
    assert refusal(late, commit_body(late.state, fence=2)) is FenceLostError


def a_quarantine_is_damaged() -> None:
    store, w1 = new_run()
    first = commit(w1, step=1)
    judge(w1, first)
    judge(w1, first, reason="not finite")
    damage(store, 5)
    assert folded(store).versions[1].rung == "committed"


def the_record_below_the_newest_is_damaged() -> None:
    store, w1 = new_run()
    commit(w1, step=1)
    second = commit(w1, step=2)
    damage(store, 3)
    assert folded(store).find(second) is not None


def a_commit_is_damaged_and_its_number_is_free() -> None:
    store, w1 = new_run()
    lost = commit(w1, step=1)
    damage(store, 3)
    w2 = open_log(store)
    start(w2, flow="other")
    assert commit(w2, step=1).number > lost.number


def the_licence_to_delete_a_base_is_damaged() -> None:
    store, w1 = new_run()
    first = commit(w1, step=1)
    append(w1, Tagged(name="t", version=None, expects=None))
    damage(store, 4)
    w2 = open_log(store)
    start(w2, flow="other")
    body = replace(commit_body(w2.state, fence=5), base=first)
    assert refusal(w2, body) is RuleRefusedError


def the_record_that_protected_a_version_is_damaged() -> None:
    store, w1 = new_run()
    first, *rest = (commit(w1, step=step) for step in range(1, 5))
    append(w1, Tagged(name="best", version=first, expects=None))
    damage(store, 7)
    log_now = open_log(store)
    judge(log_now, first, *rest)
    assert refusal(log_now, Retire(versions=(first,))) is RuleRefusedError
    append(log_now, Repaired(slot=7, lost={"tags": {"best": 1}}))
    assert refusal(log_now, Retire(versions=(first,))) is None


def one_reader_alone_finds_a_record_bad() -> None:
    store, w1 = new_run()
    commit(w1, step=1)
    unlucky = open_log(FaultyStore(store, _bad_reads_of(3)))
    fence = start(unlucky, flow="other")
    assert (folded(store).open_fence, list(folded(store).versions)) == (fence, [1])


# --- a record disappears ---------------------------------------------------------------------------------------


def a_record_in_the_middle_disappears() -> None:
    store, w1 = new_run()
    commit(w1, step=1)
    second = commit(w1, step=2)
    lose(store, 3)
    assert folded(store).find(second) is not None
    assert folded(store).damaged == (3,)


def a_straggler_comes_after_somebody_built_above_the_hole() -> None:
    store, w1 = new_run()
    straggler = open_log(store)
    commit(w1, step=1)
    second = commit(w1, step=2)
    lose(store, 3)
    w2 = open_log(store)
    fence = start(w2, flow="other")
    assert refusal(straggler, commit_body(straggler.state, fence=2)) is FenceLostError
    assert folded(store).find(second) is not None
    assert folded(store).open_fence == fence


def the_end_of_the_log_disappears() -> None:
    store, _ = _run_with_cache()
    ended = open_log(store)
    append(ended, AttemptEnded(fence=2, outcome="crashed"))
    _cache(store, folded(store))
    lose(store, ended.state.slot)
    late = open_log(store)
    assert refusal(late, commit_body(late.state, fence=2)) is FenceLostError
    start(late, flow="other")
    assert late.state.open_fence == ended.state.slot + 1


def a_straggler_lands_in_a_hole() -> None:
    store, w1 = new_run()
    straggler = open_log(store)
    fence = start(w1, flow="other")
    version = commit(w1, step=1, fence=fence)
    lose(store, 3)
    with contextlib.suppress(ConflictError):
        append(straggler, commit_body(straggler.state, fence=2))
    assert folded(store).find(version) is not None
    assert straggler.refresh().find(version) is not None


def the_end_of_a_run_is_damaged_and_the_next_was_begun() -> None:
    store, log_now = new_run()
    append(log_now, RunDeleted())
    append(log_now, RunCreated(run_id="b" * 32))
    start(log_now, flow="other")
    version = commit(log_now, step=1)
    damage(store, 3)
    assert folded(store).find(version) is not None


def a_foreign_record_stands_above_the_damage() -> None:
    store, w1 = new_run()
    commit(w1, step=1)
    zombie = Record.seal(
        commit_body(w1.state, fence=1),
        place=Place(slot=4, run_id="b" * 32, prev=None),
        author=Author(write_id="zombie", by={}, at=""),
    )
    store.put_if_absent(keys.log_key(RUN, 4), zombie.to_bytes())
    w1.refresh()
    second = commit(w1, step=2)
    damage(store, 3)
    assert folded(store).run_id == RUN_ID
    assert folded(store).find(second) is not None
    third = commit(open_log(store), step=3, fence=start(open_log(store), flow="other"))
    assert folded(store).find(third) is not None


# --- caches ----------------------------------------------------------------------------------------------------


def the_creation_of_a_run_under_a_used_name_is_damaged() -> None:
    store, w1 = new_run()
    commit(w1, step=1)
    append(w1, RunDeleted())
    again = open_log(store)
    append(again, RunCreated(run_id="b" * 32))
    start(again, flow="other")
    kept = commit(again, step=2)
    damage(store, 5)
    late = folded(store)
    assert (late.run_id, late.deleted, list(late.versions)) == ("b" * 32, False, [kept.number])
    assert late.open_fence == 6
    commit(open_log(store), step=3)
    assert len(folded(store).versions) == 2


def an_older_program_caches_past_a_kind_that_it_does_not_know() -> None:
    store, w1 = new_run()
    append(w1, AttemptEnded(fence=2, outcome="crashed"))
    as_it_saw_it = folded(store)
    as_it_saw_it.open_fence = 2
    _cache(store, as_it_saw_it, fold_version=OLDER_FOLD)
    assert folded(store).open_fence is None


def a_cache_outlives_the_log_it_was_made_of() -> None:
    store, _ = _run_with_cache()
    stale = [info.key for info in store.list(keys.folds_prefix(RUN))]
    kept = {key: store.get(key) for key in stale}
    other, w2 = new_run(run_id="b" * 32)
    for step in range(1, 2 * CACHE_EVERY_SLOTS):
        append(w2, Tagged(name=f"t{step}", version=None, expects=None))
    for info in [*other.list(keys.folds_prefix(RUN))]:
        other.delete(info.key)
    for key, data in kept.items():
        other.put(key, data)
    assert (folded(other).run_id, folded(other).versions) == ("b" * 32, {})


def a_cache_is_damaged() -> None:
    store, _ = _run_with_cache()
    [key] = [info.key for info in store.list(keys.folds_prefix(RUN))]
    content = json.loads(store.get(key))
    content["state"]["open_fence"] = 1
    store.put(key, canonical_json(content))
    assert folded(store).open_fence == 2


def _run_with_cache() -> tuple[MemoryStore, log.RunLog]:
    store, w1 = new_run()
    for step in range(1, CACHE_EVERY_SLOTS):
        commit(w1, step=step)
    assert [*store.list(keys.folds_prefix(RUN))]
    return store, w1


def _cache(store: MemoryStore, state: RunState, *, fold_version: int = FOLD_VERSION) -> None:
    content = json.loads(encode_cache(state))
    del content["digest"]
    content["fold_version"] = fold_version
    digest = hashlib.sha256(canonical_json(content)).hexdigest()
    key = keys.fold_key(RUN, state.slot, str(state.head))
    store.put(key, canonical_json({**content, "digest": digest}))


def _bad_reads_of(slot: int, times: int = 2) -> Plan:
    left = [Fault.FLIP_BIT] * times

    def plan(call: Call) -> Fault | None:
        hit = call.verb == "get" and call.key == keys.log_key(RUN, slot)
        return left.pop() if hit and left else None

    return plan


TRACES = [
    Trace(play.__name__, play, remove)
    for play, remove in [
        (the_start_of_w2_is_damaged, removed.no_damage_effect("open_fence")),
        (a_quarantine_is_damaged, removed.no_damage_effect("versions")),
        (the_record_below_the_newest_is_damaged, removed.chain_is_strict),
        (a_commit_is_damaged_and_its_number_is_free, removed.numbers_go_on),
        (the_licence_to_delete_a_base_is_damaged, removed.no_base_check),
        (the_record_that_protected_a_version_is_damaged, removed.no_repair_needed),
        (one_reader_alone_finds_a_record_bad, removed.damage_not_believed),
        (a_record_in_the_middle_disappears, removed.hole_is_the_end),
        (a_straggler_comes_after_somebody_built_above_the_hole, removed.no_filler),
        (a_straggler_lands_in_a_hole, removed.contradictions_ignored),
        (the_end_of_a_run_is_damaged_and_the_next_was_begun, removed.only_deleted_runs_begin_again),
        (
            the_creation_of_a_run_under_a_used_name_is_damaged,
            removed.a_lost_creation_is_never_guessed,
        ),
        (a_foreign_record_stands_above_the_damage, removed.only_right_above_damage),
        (the_end_of_the_log_disappears, removed.no_look_beyond_the_end),
        (an_older_program_caches_past_a_kind_that_it_does_not_know, removed.any_fold_version),
        (a_cache_outlives_the_log_it_was_made_of, removed.any_cache),
        (a_cache_is_damaged, removed.cache_digest_unchecked),
    ]
]
each_trace = pytest.mark.parametrize("trace", TRACES, ids=[trace.name for trace in TRACES])


@each_trace
def test_the_trace_does_no_harm(trace):
    trace.play()


@each_trace
def test_the_guard_is_what_makes_it_harmless(trace, monkeypatch):
    assert breaks_without_guard(trace, monkeypatch)


def test_a_verdict_still_counts_against_a_version_below_damage():
    store, w1 = new_run()
    first = commit(w1, step=1)
    judge(w1, first, reason="not finite")
    commit(w1, step=2)
    damage(store, 5)
    assert folded(store).versions[first.number].rung == "quarantined"
