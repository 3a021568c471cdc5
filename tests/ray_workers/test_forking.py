"""Forks: pinned before they exist, known again when their first record is lost, let go of when somebody was quicker."""

import contextlib

import pytest

from ray_workers import opening_attempt
from ray_workers.forking import pin_origin
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.resume import choose
from ray_workers.store import keys
from ray_workers.store.attempts import create_run, end_attempt, read_run, run_names, this_process
from ray_workers.store.bodies import Condemn, Retire, RunDeleted
from ray_workers.store.errors import (
    InvalidInputError,
    OutcomeUnknownError,
    RuleRefusedError,
    RunNotFoundError,
    VersionNotFoundError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.memory import MemoryStore
from ray_workers.store.sweep import delete_run, sweep
from tests.support.applicants import open_as
from tests.support.factories import MadeUpRun
from tests.support.faulty_store import Died, Fault, FaultyStore, fail_writes


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def run(store):
    """Three versions at steps 10, 20 and 30; the attempt is over."""
    made = MadeUpRun(store=store, name="run", ranks=1)
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
    made.end()
    return made


def pins(store, run="run"):
    return [(pin.child, pin.version) for pin in read_run(store, run).pins.values()]


def abandoned(state):
    return [v.number for v in reversed(state.newest_first()) if v.abandoned]


def test_a_fork_pins_its_origin_and_names_it(run, store):
    state, _ = open_as(store, "flow", run="child", resume="run@2")
    assert state.origin is not None
    assert (state.origin.run, state.origin.version) == ("run", run.version(2).name)
    assert state.origin.run_id == run.log.state.run_id
    assert pins(store) == [("child", 2)]
    assert state.run_id in read_run(store, "run").pins
    assert read_run(store, "run").protected()[2] == "fork child starts from it"
    assert abandoned(read_run(store, "run")) == []


def test_a_retry_and_a_later_flow_run_fork_no_second_time(run, store):
    first, _ = open_as(store, "flow", run="child", resume="run@2")
    again, fence = open_as(store, "flow", run="child", resume="run@2", count=2)
    end_attempt(RunLog(store, "child", by=this_process()), fence, "failed")
    later, _ = open_as(store, "other flow", run="child", resume="run@3")
    assert first.run_id == again.run_id == later.run_id
    assert pins(store) == [("child", 2)]


def test_a_fork_under_the_name_of_another_run_is_refused(run, store):
    open_as(store, "flow", run="other")
    with pytest.raises(InvalidInputError, match="'other' exists and was not forked from run 'run'"):
        open_as(store, "flow 2", run="other", resume="run@2")
    assert pins(store) == []


def rot(store, run, slot=1):
    FaultyStore(store, {1: Fault.ROT}).put(
        keys.log_key(run, slot), store.get(keys.log_key(run, slot))
    )


def test_a_fork_whose_first_record_rotted_is_still_that_fork(run, store):
    """The pin in the origin's log tells what the lost record said."""
    open_as(store, "flow", run="child", resume="run@2")
    rot(store, "child")
    state, fence = open_as(store, "flow", run="child", resume="run@2", count=2)
    assert state.origin is None
    assert pins(store) == [("child", 2)]
    choice = choose(
        store, RunLog(store, "child", by={}), fence, required="committed", policy=SoundnessPolicy()
    )
    assert choice.point is not None
    assert (choice.point.run, choice.point.step) == ("run", 20)
    MadeUpRun(store=store, name="other", ranks=1)
    with pytest.raises(InvalidInputError, match="was not forked from run 'other'"):
        open_as(store, "flow 2", run="child", resume="other@1")


def test_a_run_whose_first_record_rotted_and_that_nobody_pinned_starts_from_nothing(store):
    open_as(store, "flow")
    store.put("runs/No run of ours/log/x".replace(" ", "_"), b"x")
    rot(store, "run")
    _, fence = open_as(store, "flow", count=2)
    log = RunLog(store, "run", by={})
    choice = choose(store, log, fence, required="committed", policy=SoundnessPolicy())
    assert choice.point is None


def between_pin_and_creation(monkeypatch, act):
    """`act` happens once, after the first fork has pinned its origin and before it creates the child."""
    real = create_run
    acted: list[str] = []

    def late(store, run, **values):
        if not acted:
            acted.append("now")
            act()
        return real(store, run, **values)

    monkeypatch.setattr(opening_attempt, "create_run", late)


def test_of_two_forks_at_once_the_slower_goes_on_with_the_other_and_lets_go_of_its_pin(
    run, store, monkeypatch
):
    between_pin_and_creation(
        monkeypatch, lambda: open_as(store, "quick", run="child", resume="run@3")
    )
    state, _ = open_as(store, "slow", run="child", resume="run@2", takeover=True)
    assert state.origin is not None
    assert state.origin.version.number == 3
    assert pins(store) == [("child", 3)]
    assert list(read_run(store, "run").pins) == [state.run_id]


def test_a_fork_whose_name_was_taken_meanwhile_by_another_run_is_refused_and_lets_go(
    run, store, monkeypatch
):
    between_pin_and_creation(monkeypatch, lambda: open_as(store, "quick", run="child"))
    with pytest.raises(InvalidInputError, match="'child' exists and was not forked from run 'run'"):
        open_as(store, "slow", run="child", resume="run@2", takeover=True)
    assert pins(store) == []


@pytest.mark.parametrize("fault", [Fault.LOSE_RESPONSE, Fault.DELAY, Fault.ANSWER_TWICE])
def test_a_creation_whose_answer_was_lost_is_known_again_by_its_write_id(store, fault):
    """It is sent once more, the slot is taken, and what stands there is read: no second run, and no guess."""
    faulty = FaultyStore(store, fail_writes(1, fault))
    log = create_run(faulty, "run", by={}, run_id="a" * 32)
    faulty.land()
    assert log.state.run_id == "a" * 32
    raw = read_run(store, "run")
    assert (raw.run_id, raw.slot, raw.damaged) == ("a" * 32, 1, ())


def test_a_creation_of_which_nothing_is_known_releases_no_pin(run, store):
    """The first record may still land, and then it needs the version that it names."""

    def plan(call):
        if call.is_write and call.key == keys.log_key("child", 1):
            return Fault.DELAY
        return None

    faulty = FaultyStore(store, plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray_workers.store.attempts._PATIENCE_S", 0.0)
        with pytest.raises(OutcomeUnknownError):
            open_as(faulty, "flow", run="child", resume="run@2")
    assert pins(store) == [("child", 2)]
    faulty.land()
    state, _ = open_as(store, "flow", run="child", resume="run@2")
    assert state.run_id in read_run(store, "run").pins
    assert pins(store) == [("child", 2)]


@pytest.mark.parametrize(
    ("resume", "error"),
    [("nowhere@1", RunNotFoundError), ("run@9", VersionNotFoundError)],
)
def test_a_fork_of_what_is_not_there_creates_nothing(run, store, resume, error):
    with pytest.raises(error):
        open_as(store, "flow", run="child", resume=resume)
    assert run_names(store) == ["run"]
    assert pins(store) == []


def test_a_fork_of_what_is_bad_or_given_up_creates_nothing(run, store):
    run.judge(3, reason="NaN")
    run.start()
    run.commit(40)
    run.judge(2, 4, check="sound")
    names = (run.version(1).name,)
    run.append(Retire(versions=names))
    run.append(Condemn(versions=names))
    for reference, why in (("run@3", "quarantined"), ("run@1", "not kept any more")):
        with pytest.raises(VersionNotFoundError, match=why):
            open_as(store, "flow", run="child", resume=reference)
    assert run_names(store) == ["run"]


# --- deleted forks let go --------------------------------------------------------------------------------------------


@pytest.fixture
def child(run, store):
    """A fork of version 2, trained to its end."""
    made = run.fork(2, "child")
    made.commit(30)
    made.end()
    return made


def delete(store, run):
    delete_run(store, run, by=this_process())


def test_a_deleted_fork_lets_its_origin_be_deleted(child, store):
    delete(store, "child")
    assert pins(store) == []
    assert 2 not in read_run(store, "run").protected()
    delete(store, "run")
    assert read_run(store, "run").deleted


def test_a_fork_of_a_fork_is_deleted_from_the_youngest_on(child, store):
    grandchild = child.fork(1, "grandchild")
    grandchild.end()
    with pytest.raises(RuleRefusedError, match="grandchild"):
        delete(store, "child")
    assert pins(store) == [("child", 2)]
    for name in ("grandchild", "child", "run"):
        delete(store, name)
        assert read_run(store, name).deleted


@pytest.mark.parametrize("heal", ["delete", "sweep"])
@pytest.mark.parametrize("again", [False, True])
def test_a_delete_that_died_before_it_let_go_is_made_up_for(run, child, store, heal, again):
    child.append(RunDeleted())
    if again:  # the name has gone through other hands since
        other = MadeUpRun(store=store, name="child", ranks=1)
        other.start()
        other.end()
        if heal == "sweep":
            delete(store, "child")
    assert pins(store) == [("child", 2)]
    if heal == "delete":
        delete(store, "run")
        assert read_run(store, "run").deleted
    else:
        run.judge(2, 3)
        sweep(store, "run", by=this_process())
        assert pins(store) == []


@pytest.mark.parametrize("name", ["child", "run"])
def test_a_delete_that_dies_at_any_write_is_made_up_for(name):
    for number in range(1, 4):
        store = MemoryStore()
        run = MadeUpRun(store=store, name="run", ranks=1)
        run.start()
        run.commit(10)
        run.end()
        run.fork(1, "child").end()
        if name == "run":
            MadeUpRun(store=store, name="child").append(RunDeleted())
        with contextlib.suppress(Died):
            delete(FaultyStore(store, fail_writes(number, Fault.DIE_BEFORE)), name)
        for left in ("child", "run"):
            if not read_run(store, left).deleted:
                delete(store, left)
        assert pins(store) == []


def test_an_origin_that_is_gone_does_not_keep_a_fork_from_being_deleted(run, child, store):
    for info in list(store.list("runs/run/")):
        store.delete(info.key)
    delete(store, "child")
    assert read_run(store, "child").deleted
    assert run_names(store) == ["child"]


def test_a_fork_that_lives_or_is_still_to_come_keeps_its_pin(run, store):
    """The name may be that of a run that was deleted before the fork was asked for."""
    old = MadeUpRun(store=store, name="child", ranks=1)
    old.start()
    old.end()
    delete(store, "child")
    fork = pin_origin(store, "child", run="run", version="2", by=this_process())
    for exists in (False, True):
        if exists:
            create_run(store, "child", by={}, origin=fork.origin, run_id=fork.child_run_id)
        sweep(store, "run", by=this_process())
        with pytest.raises(RuleRefusedError, match="child"):
            delete(store, "run")
        assert pins(store) == [("child", 2)]


def test_a_fork_whose_log_cannot_be_read_keeps_its_pin(child, store):
    child.append(RunDeleted())

    def plan(call):
        return Fault.UNAVAILABLE if call.key.startswith("runs/child/") else None

    with pytest.raises(RuleRefusedError, match="child"):
        delete(FaultyStore(store, plan), "run")
    assert pins(store) == [("child", 2)]
