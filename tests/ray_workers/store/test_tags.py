import pytest

from ray_workers.store import keys
from ray_workers.store.bodies import Retire, Tagged
from ray_workers.store.errors import InvalidInputError, RuleRefusedError, VersionNotFoundError
from ray_workers.store.log import RunLog
from ray_workers.store.memory import MemoryStore
from ray_workers.store.tags import (
    ANY_HOLDER,
    check_tag_name,
    move_tag,
    protected_tags,
    refuse_protected,
    tag_history,
)
from tests.support.factories import MadeUpRun


@pytest.fixture
def run():
    made = MadeUpRun(store=MemoryStore())
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
    return made


def moves(run):
    return [(m.name, m.before, m.version) for m in tag_history(run.store, "digits")]


def test_a_tag_moves_in_one_record_and_its_history_stays(run):
    slot = run.log.refresh().slot
    move_tag(run.log, "prod", run.version(1).name)
    move = move_tag(run.log, "prod", run.version(3).name)
    move_tag(run.log, "prod", None)
    assert run.log.refresh().slot == slot + 3
    assert move is not None
    assert (move.before, move.version) == (1, 3)
    assert moves(run) == [("prod", None, 1), ("prod", 1, 3), ("prod", 3, None)]
    assert tag_history(run.store, "digits")[0].by["pid"]


def test_a_tag_that_is_there_already_writes_nothing(run):
    move_tag(run.log, "prod", run.version(1).name)
    slot = run.log.refresh().slot
    assert move_tag(run.log, "prod", run.version(1).name) is None
    assert run.log.refresh().slot == slot


@pytest.mark.parametrize("expects", [None, 2])
def test_a_move_that_expects_another_holder_is_refused(run, expects):
    move_tag(run.log, "prod", run.version(1).name)
    with pytest.raises(RuleRefusedError, match="is on version 1, not on"):
        move_tag(run.log, "prod", run.version(3).name, expects=expects)
    assert run.log.refresh().tags["prod"] == 1
    move_tag(run.log, "prod", run.version(3).name, expects=1)
    assert run.log.refresh().tags["prod"] == 3


def test_of_two_that_expect_the_same_holder_one_is_refused(run):
    move_tag(run.log, "prod", run.version(1).name)
    other = RunLog(run.store, "digits", by={})
    move_tag(run.log, "prod", run.version(2).name, expects=1)
    with pytest.raises(RuleRefusedError, match="is on version 2"):
        move_tag(other, "prod", run.version(3).name, expects=1)


def test_a_tag_that_is_not_there_cannot_be_taken_off(run):
    with pytest.raises(VersionNotFoundError, match="no tag 'prod'"):
        move_tag(run.log, "prod", None)


def test_a_tagged_version_is_not_retired(run):
    run.judge(1, 2, 3)
    move_tag(run.log, "prod", run.version(1).name)
    with pytest.raises(RuleRefusedError, match="tagged prod"):
        run.append(Retire(versions=(run.version(1).name,)))


@pytest.mark.parametrize(
    "name", ["latest", "sound", "restorable", "none", "3", "a b", "", "-a", "a" * 65]
)
def test_names_that_mean_something_else_are_refused(run, name):
    with pytest.raises(InvalidInputError):
        check_tag_name(name)
    with pytest.raises(InvalidInputError):
        move_tag(run.log, name, run.version(1).name)


def test_protected_names_come_from_the_environment():
    assert protected_tags({}) == {"production"}
    assert protected_tags({"PAWL_PROTECTED_TAGS": "live, best-of-all ,"}) == {"live", "best-of-all"}
    assert protected_tags({"PAWL_PROTECTED_TAGS": ""}) == set()
    refuse_protected("other", protected_tags({}))
    with pytest.raises(InvalidInputError, match="--force"):
        refuse_protected("production", protected_tags({}))


def test_a_record_without_effect_is_no_move(run):
    """A straggler of a run that was wiped by hand holds its slot and says nothing."""
    body = Tagged(name="prod", version=run.version(1).name, expects=None)
    foreign = RunLog(run.store, "digits", by={})
    foreign.state.run_id = "b" * 32
    foreign.append(lambda _: body)
    assert moves(run) == []
    move_tag(run.log, "prod", run.version(2).name)
    assert moves(run) == [("prod", None, 2)]


def lose_commit(run, number):
    """The record that committed the version becomes bytes that are no record; a new log of the run."""
    key = keys.log_key("digits", run.version(number).slot)
    data = bytearray(run.store.get(key))
    data[len(data) // 2] ^= 1
    run.store.put(key, bytes(data))
    return RunLog(run.store, "digits", by={})


@pytest.mark.parametrize("expects", [ANY_HOLDER, 2])
def test_a_tag_whose_version_was_lost_moves(run, expects):
    move_tag(run.log, "prod", run.version(2).name)
    log = lose_commit(run, 2)
    move = move_tag(log, "prod", log.state.versions[3].name, expects=expects)
    assert move is not None
    assert (move.before, move.version) == (2, 3)
    assert log.refresh().tags == {"prod": 3}


def test_a_tag_whose_version_was_lost_is_taken_off(run):
    move_tag(run.log, "prod", run.version(2).name)
    log = lose_commit(run, 2)
    move_tag(log, "prod", None)
    assert log.refresh().tags == {}
    assert moves(run)[-1] == ("prod", 2, None)


def test_the_rung_is_checked_when_the_record_is_written(run):
    """Another writer's verdict counts, even though it came after whoever moves the tag had looked."""
    log = RunLog(run.store, "digits", by={})
    run.judge(1)
    move_tag(log, "prod", run.version(1).name, required="sound")
    with pytest.raises(RuleRefusedError, match=r"Version 2 .* is committed; sound is required"):
        move_tag(log, "prod", run.version(2).name, required="sound")
    run.judge(3, check="bytes", reason="rot")
    with pytest.raises(RuleRefusedError, match=r"Version 3 .* is quarantined: rot"):
        move_tag(log, "prod", run.version(3).name, required="committed")
    assert log.refresh().tags == {"prod": 1}


def test_a_verdict_that_takes_the_slot_first_counts(run, monkeypatch):
    """The put of the tag's record loses its slot to a verdict: it is decided anew."""
    put = MemoryStore.put_if_absent

    def late(self, key, data):
        if b'"Tagged"' in data and run.version(3).quarantine is None:
            run.judge(3, check="bytes", reason="rot")
        return put(self, key, data)

    log = RunLog(run.store, "digits", by={})
    monkeypatch.setattr(MemoryStore, "put_if_absent", late)
    with pytest.raises(RuleRefusedError, match="quarantined"):
        move_tag(log, "prod", run.version(3).name, required="committed")
    assert log.refresh().tags == {}
