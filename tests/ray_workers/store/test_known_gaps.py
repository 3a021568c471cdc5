"""What the log does not do yet though its format asks for it. Each test names the gap; one that passes is to be moved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from ray_workers.resume import choose
from ray_workers.store import keys
from ray_workers.store.bodies import (
    AttemptEnded,
    AttemptStarted,
    RunCreated,
    RunDeleted,
    Swept,
    Tagged,
)
from ray_workers.store.errors import (
    ConflictError,
    PawlError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ray_workers.store.log import CACHE_EVERY_SLOTS, RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Author, Place, Record
from ray_workers.validation import SoundnessPolicy
from tests.support.factories import MadeUpRun
from tests.support.faulty_store import Call, Fault, FaultyStore
from tests.support.plain_log import (
    RUN,
    RUN_ID,
    append,
    commit,
    commit_body,
    damage,
    folded,
    judge,
    lose,
    new_run,
    on_slot,
    open_log,
    refusal,
    start,
)


def gap(why: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(reason=why, strict=True)


class Hooked(FaultyStore):
    """A view of a store on which `before` may act, or raise, before each call."""

    def __init__(self, inner: ObjectStore, before: Callable[[str, str], None]) -> None:
        def plan(call: Call) -> None:
            before(call.verb, call.key)

        super().__init__(inner, plan)


@gap("FORMAT.md section 5, rule 16: slots below a cache count as lost without being read again")
def test_a_reader_that_meets_a_cache_written_meanwhile_finds_no_damage():
    store, writer = new_run()
    for step in range(1, CACHE_EVERY_SLOTS - 2):
        commit(writer, step=step)
    lists: list[str] = []

    def go_on(verb: str, key: str) -> None:
        if verb == "list":
            lists.append(key)
        if verb == "list" and lists.count(keys.folds_prefix(RUN)) == 2:
            commit(writer, step=1000)
            commit(writer, step=1001)

    state = LogReader(Hooked(store, go_on), RUN).fold()
    assert [*store.list(keys.folds_prefix(RUN))]
    assert (state.damaged, state.open_fence) == ((), 2)


@gap("section 6, rules 4 and 5: a refusal ends the append although an earlier try is still open")
def test_a_refusal_after_an_unanswered_try_leaves_the_outcome_unknown():
    inner, _ = new_run()
    late = FaultyStore(inner, on_slot(3, Fault.DELAY))

    def expire(verb: str, key: str) -> None:
        if verb == "put_if_absent" and late.writes:
            raise StoreRefusedError("The credentials have expired.", key=key)

    w1 = RunLog(Hooked(late, expire), RUN, by={}, patience_s=0.01, sleep=lambda _: None)
    with pytest.raises(PawlError) as caught:
        append(w1, commit_body(w1.state, fence=2))
    late.land()
    assert list(folded(inner).versions) == [1]
    assert "unknown" in caught.value.message


@gap("section 6, rule 5: after a timeout the caller cannot tell `unknown` from `not committed`")
def test_an_unknown_outcome_has_a_kind_of_its_own():
    inner, _ = new_run()
    silent = FaultyStore(inner, lambda call: Fault.DELAY if call.is_write else None)
    w1 = RunLog(silent, RUN, by={}, patience_s=0.0, sleep=lambda _: None)
    with pytest.raises(PawlError) as caught:
        append(w1, commit_body(w1.state, fence=2))
    assert caught.value.kind != StoreUnavailableError.kind


@gap("section 6, rule 5: patience does not end while the taken slot cannot be read")
def test_patience_ends_although_the_slot_cannot_be_read():
    store, first = new_run()
    reads: list[str] = []

    def unreadable(verb: str, key: str) -> None:
        if first.state.slot == 3 and verb == "get" and key == keys.log_key(RUN, 3):
            reads.append(key)
            assert len(reads) < 1000, "it goes on for ever"
            raise StoreUnavailableError("503", key=key)

    hooked = Hooked(store, unreadable)
    late = RunLog(hooked, RUN, by={}, patience_s=0.0, sleep=lambda _: None)
    append(first, AttemptEnded(fence=2, outcome="crashed"))
    with pytest.raises(StoreUnavailableError):
        append(late, AttemptStarted(flow_run_id="other", run_count=1, incarnation=0))


@gap("section 6, rule 3: a writer that misreads its own record is refused by it")
def test_a_writer_that_misreads_its_own_record_finds_it_in_the_fold():
    inner, _ = new_run()
    bad = [Fault.FLIP_BIT] * 2
    lost = on_slot(3, Fault.LOSE_RESPONSE)

    def plan(call: Call) -> Fault | None:
        if call.verb == "get" and call.key == keys.log_key(RUN, 3) and bad and armed:
            return bad.pop()
        return lost(call)

    armed: list[bool] = []
    w1 = open_log(FaultyStore(inner, plan))
    armed.append(True)
    assert refusal(w1, commit_body(w1.state, fence=2)) is None
    assert list(folded(inner).versions) == [1]


@gap("section 8, rule 1: a tag whose version was lost can neither be moved nor removed")
def test_a_tag_on_a_version_whose_commit_was_damaged_can_be_moved():
    store, w1 = new_run()
    first, second = (commit(w1, step=step) for step in (1, 2))
    append(w1, Tagged(name="best", version=second, expects=None))
    damage(store, 4)
    later = open_log(store)
    moves = [Tagged(name="best", version=first, expects=at) for at in (second, None)]
    assert None in [refusal(later, move) for move in moves]


@gap("section 6, rule 8: only the newest 64 holes are filled")
def test_every_hole_is_filled_before_anything_is_built_above_it():
    store, w1 = new_run()
    for step in range(1, 2 * CACHE_EVERY_SLOTS):
        commit(w1, step=step)
    for slot in range(20, w1.state.slot + 1):
        lose(store, slot)
    w2 = open_log(store)
    start(w2, flow="other")
    reader = LogReader(store, RUN)
    assert [slot for slot in range(1, w2.state.slot) if reader.read(slot) is None] == []


@gap(
    "section 5, rule 3: above a damaged RunDeleted the next RunCreated and all that follows are void"
)
def test_a_damaged_end_of_one_run_does_not_void_the_next():
    store, log = new_run()
    append(log, RunDeleted())
    append(log, RunCreated(run_id="b" * 32))
    start(log, flow="other")
    version = commit(log, step=1)
    damage(store, 3)
    assert folded(store).find(version) is not None


@gap("section 6: Swept asks that the run exists, so a deleted run can never be swept")
def test_a_deleted_run_can_be_swept():
    _, log = new_run()
    version = commit(log, step=1)
    append(log, RunDeleted())
    assert refusal(log, Swept(versions=(version,))) is None


@gap("section 5, rule 17: a process counts from where it opened the log, so short ones never cache")
def test_short_lived_processes_write_caches_too():
    store, _ = new_run()
    for first in range(1, 3 * CACHE_EVERY_SLOTS, 32):
        log = open_log(store)
        for step in range(first, first + 32):
            commit(log, step=step)
    assert [*store.list(keys.folds_prefix(RUN))]


@gap("one stray object with a high slot number makes every reader ask for all slots below it")
def test_a_stray_object_far_above_the_log_costs_no_reads():
    inner, _ = new_run()
    inner.put(keys.log_key(RUN, 1_000), b"not a record")
    store = FaultyStore(inner)
    assert LogReader(store, RUN).fold().slot == 2
    assert len(store.calls) < 100


@gap("section 5, rule 3: a void right above damage cuts the chain, and all above it is void")
def test_damage_and_a_void_above_it_do_not_void_the_rest():
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


@gap("sections 5 and 6: a straggler's record in a hole voids what was built above it before")
def test_a_straggler_that_lands_in_a_hole_voids_nothing():
    store, w1 = new_run()
    straggler = open_log(store)
    fence = start(w1, flow="other")
    version = commit(w1, step=1, fence=fence)
    lose(store, 3)
    with contextlib.suppress(ConflictError):
        append(straggler, commit_body(straggler.state, fence=2))
    assert folded(store).find(version) is not None


@gap("a version that is quarantined between the look and the record ends the attempt")
def test_a_candidate_that_is_quarantined_meanwhile_is_passed_over():
    store = MemoryStore()
    run = MadeUpRun(store=store)
    run.start()
    run.commit(1)
    run.commit(2)
    run.judge(1, 2)
    scrub = RunLog(store, run.name, by={})
    name = run.version(2).name
    fence = run.start(None)
    slot = keys.log_key(run.name, fence + 2)

    def demote(verb: str, key: str) -> None:
        if (verb, key) == ("put_if_absent", slot) and scrub.refresh().slot == fence + 1:
            judge(scrub, name, reason="drift")

    log = RunLog(Hooked(store, demote), run.name, by={}, sleep=lambda _: None)
    choice = choose(store, log, fence, required="sound", policy=SoundnessPolicy())
    assert choice.point is not None
    assert choice.point.name.number == 1
