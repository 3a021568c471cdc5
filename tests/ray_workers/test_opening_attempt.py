"""Who may start, and what is done first: busy, takeover, fork, rollback, start over, retry."""

import uuid

import pytest

from ray_workers import opening_attempt
from ray_workers.opening_attempt import final_version
from ray_workers.resume import ResumeSpec
from ray_workers.store.attempts import (
    read_run,
    roll_back,
    run_names,
    start_attempt,
    this_process,
)
from ray_workers.store.bodies import RolledBack
from ray_workers.store.errors import (
    FenceLostError,
    InvalidInputError,
    RunBusyError,
    RunNotFoundError,
    VersionNotFoundError,
)
from ray_workers.store.keys import log_key
from ray_workers.store.memory import MemoryStore
from tests.support.applicants import ELSEWHERE, open_as
from tests.support.factories import MadeUpRun, flip_byte, folder_store


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


def abandoned(state):
    return [v.number for v in reversed(state.newest_first()) if v.abandoned]


def test_a_new_run_is_created_and_owned(store):
    state, fence = open_as(store, "flow")
    assert state.exists
    assert state.open_fence == fence
    assert state.attempts[fence].flow_run_id == "flow"


# --- overtaken -------------------------------------------------------------------------------------------------------


def test_the_process_that_lost_the_run_does_not_take_it_back(store):
    open_as(store, "first")
    open_as(store, "second", by=ELSEWHERE, takeover=True)
    before = read_run(store, "run")
    for takeover in (False, True):  # a flow run that took over once and lost in turn stays out too
        with pytest.raises(FenceLostError, match="flow run second"):
            open_as(store, "first", count=2, takeover=takeover)
    assert read_run(store, "run").slot == before.slot


def test_the_same_flow_run_started_again_by_somebody_may(store):
    open_as(store, "first", by=ELSEWHERE)
    made = MadeUpRun(store=store, name="run", ranks=1)
    _, made.fence = open_as(store, "second", by=ELSEWHERE, takeover=True)
    made.end()
    state, fence = open_as(store, "first", count=2)
    assert state.open_fence == fence


def test_who_took_the_run_over_may_retry(store):
    open_as(store, "first", by=ELSEWHERE)
    open_as(store, "second", takeover=True)
    state, fence = open_as(store, "second", count=2, takeover=True)
    assert state.open_fence == fence


# --- busy ------------------------------------------------------------------------------------------------------------


def test_a_run_that_still_trains_elsewhere_is_refused_by_name(store):
    before, fence = open_as(store, "first", by=ELSEWHERE)
    with pytest.raises(
        RunBusyError, match=r"flow run 'calm-bee'.*another-host.*takeover"
    ) as caught:
        open_as(store, "second", running="flow run 'calm-bee'")
    assert caught.value.details["flow_run_id"] == "first"
    assert read_run(store, "run").open_fence == fence
    assert read_run(store, "run").slot == before.slot  # nothing was written


def test_takeover_ends_the_older_attempts_right_to_commit(store):
    made = MadeUpRun(store=store, name="run", ranks=1)
    _, made.fence = open_as(store, "first", by=ELSEWHERE)
    made.commit(10)
    state, fence = open_as(store, "second", takeover=True, running="flow run 'calm-bee'")
    assert state.open_fence == fence
    with pytest.raises(FenceLostError, match="flow run second"):
        made.commit(20)
    assert list(read_run(store, "run").versions) == [1]


def test_takeover_holds_for_the_first_attempt_alone(store):
    """Started again after its machine died, the older of two that took over does not end the younger."""
    elsewhere_too = {**ELSEWHERE, "pid": 2}
    open_as(store, "first", by=ELSEWHERE, takeover=True)
    _, fence = open_as(store, "second", by=elsewhere_too, takeover=True, running="flow run 'first'")
    with pytest.raises(RunBusyError, match="calm-bee"):
        open_as(store, "first", count=2, takeover=True, running="flow run 'calm-bee'")
    assert read_run(store, "run").open_fence == fence
    state, _ = open_as(
        store, "first", count=2, takeover=True, running=None
    )  # nobody trains any more
    assert state.open_attempt is not None
    assert state.open_attempt.flow_run_id == "first"


@pytest.mark.parametrize("running", [None, "flow run 'calm-bee'"])
def test_a_process_that_is_provably_gone_is_not_busy(store, running):
    gone = {**this_process(), "pid": 2**22 + 1}
    open_as(store, "first", by=gone)
    state, fence = open_as(store, "second", running=running)
    assert state.open_fence == fence


def test_nobody_who_knows_it_to_be_running_means_not_busy(store):
    open_as(store, "first", by=ELSEWHERE)
    state, fence = open_as(store, "second", running=None)
    assert state.open_fence == fence


def test_an_attempt_that_ended_is_not_busy(run, store):
    state, fence = open_as(store, "second", running="flow run 'calm-bee'")
    assert state.open_fence == fence


def test_a_later_try_of_the_same_flow_run_follows_the_earlier(store):
    open_as(store, "flow", by=ELSEWHERE)
    state, fence = open_as(store, "flow", count=2, running="flow run 'calm-bee'")
    assert state.open_fence == fence
    with pytest.raises(FenceLostError, match="comes too late"):
        open_as(store, "flow", count=1)


def test_of_two_that_start_at_once_one_is_refused(store, monkeypatch):
    """The other comes between this one's look at the log and its record."""
    real = start_attempt
    other: list[str] = []

    def late(log, **values):
        if not other:
            other.append("started")
            open_as(store, "other", by=ELSEWHERE)
        return real(log, **values)

    monkeypatch.setattr(opening_attempt, "start_attempt", late)
    with pytest.raises(RunBusyError):
        open_as(store, "flow", running="flow run 'calm-bee'")
    assert [a.flow_run_id for a in read_run(store, "run").attempts.values()] == ["other"]


@pytest.mark.parametrize("resume", ["never", "run@1"])
def test_of_two_that_start_at_once_the_refused_one_rolls_nothing_back(
    run, store, resume, monkeypatch
):
    """The other comes between this one's look at the log and its rollback."""
    real = roll_back
    other: list[int] = []

    def late(log, to, **values):
        other.append(open_as(store, "other", by=ELSEWHERE)[1])
        real(log, to, **values)

    monkeypatch.setattr(opening_attempt, "roll_back", late)
    with pytest.raises(RunBusyError):
        open_as(store, "flow", resume=resume, running="flow run 'calm-bee'")
    state = read_run(store, "run")
    assert abandoned(state) == []
    assert [state.open_fence] == other


def test_a_refused_applicant_rolls_nothing_back(run, store):
    open_as(store, "first", by=ELSEWHERE)
    for resume in ("never", "run@1"):
        with pytest.raises(RunBusyError):
            open_as(store, "second", resume=resume, running="flow run 'calm-bee'")
    assert abandoned(read_run(store, "run")) == []


# --- going back ------------------------------------------------------------------------------------------------------


def test_never_abandons_every_version_once(run, store):
    state, _ = open_as(store, "flow", resume="never")
    assert abandoned(state) == [1, 2, 3]
    run.log.refresh()
    run.fence = state.open_fence
    run.series = []
    number = run.commit(5)
    state, _ = open_as(store, "flow", resume="never", count=2)
    assert abandoned(state) == [1, 2, 3]  # what the first try made is not thrown away by its retry
    assert state.versions[number].candidate


def test_never_on_a_new_run_is_nothing_special(store):
    state, fence = open_as(store, "flow", resume="never")
    assert state.slot == fence == 2


def test_roll_back_abandons_what_came_after_once(run, store):
    state, _ = open_as(store, "flow", resume="run@1")
    assert abandoned(state) == [2, 3]
    slots = state.slot
    state, _ = open_as(store, "flow", resume="run@1", count=2)
    assert state.slot == slots + 1  # only the new start


def test_going_back_to_the_newest_version_changes_nothing(run, store):
    state, _ = open_as(store, "flow", resume="run@latest")
    assert abandoned(state) == []


def test_a_version_that_was_abandoned_can_be_gone_back_to(run, store):
    open_as(store, "flow", resume="run@1")
    state, _ = open_as(store, "flow 2", resume="run@3")
    assert abandoned(state) == [2]
    assert state.versions[3].candidate


@pytest.mark.parametrize("reference", ["run@9", "run@sound"])
def test_going_back_to_a_version_that_is_not_there_is_refused(run, store, reference):
    before = read_run(store, "run").slot
    with pytest.raises(VersionNotFoundError):
        open_as(store, "flow", resume=reference)
    assert read_run(store, "run").slot == before


def test_going_back_to_a_quarantined_version_is_refused(run, store):
    run.judge(2, reason="NaN in weight0")
    with pytest.raises(VersionNotFoundError, match=r"quarantined.*NaN in weight0"):
        open_as(store, "flow", resume="run@2")
    assert abandoned(read_run(store, "run")) == []


def test_a_run_that_is_not_there_cannot_be_gone_back_to(store):
    with pytest.raises(RunNotFoundError, match="no run 'run'"):
        open_as(store, "flow", resume="run@1")
    assert run_names(store) == []


def test_a_reference_is_parsed_or_refused():
    assert ResumeSpec.parse("auto") == ResumeSpec(mode="auto")
    assert ResumeSpec.parse("run@latest") == ResumeSpec(mode="version", run="run", version="latest")
    named = ResumeSpec.parse("run@newest")  # a tag, as far as the text tells
    assert (named.run, named.version) == ("run", "newest")
    for text in (
        "",
        "Auto",
        "run",
        "run@",
        "@3",
        "run@-1",
        "RUN@1",
        f"{uuid.uuid4()}@",
    ):
        with pytest.raises(InvalidInputError):
            ResumeSpec.parse(text)


# --- finished --------------------------------------------------------------------------------------------------------


def test_a_run_whose_last_attempt_completed_ended_with_its_newest_version(run):
    assert final_version(run.log.refresh()) == run.version(3)
    run.start(3)
    assert final_version(run.log.refresh()) is None
    run.end("failed", "boom")
    assert final_version(run.log.refresh()) is None
    run.start(3)
    run.end()
    assert final_version(run.log.refresh()) == run.version(3)


def test_a_run_whose_final_version_is_quarantined_is_not_finished_with_an_older_one(run):
    run.judge(1, 2)
    run.judge(3, reason="its digest is another", check="bytes")
    assert final_version(run.log.refresh()) is None


def test_a_run_whose_final_version_is_abandoned_is_not_finished_before_it_was_trained_on(run):
    run.append(RolledBack(to=run.version(2).name))
    assert final_version(run.log.refresh()) is None
    run.start(2)
    run.end()
    assert final_version(run.log.refresh()) == run.version(2)


def test_a_damaged_slot_may_have_held_the_final_version_until_an_attempt_has_looked(tmp_path):
    store = folder_store(tmp_path)
    made = MadeUpRun(store=store, name="run", ranks=1)
    made.start()
    made.commit(10)
    made.commit(20)
    slot = made.version(2).slot
    made.end()
    flip_byte(tmp_path, log_key("run", slot))
    assert final_version(read_run(store, "run")) is None
    again = MadeUpRun(store=store, name="run", ranks=1)
    again.start(1)
    again.end()
    assert final_version(read_run(store, "run")) == again.version(1)
