"""Which version an attempt starts from, what is recorded of the choice, and that nothing unread is used."""

import uuid

import pytest

from ray_workers import resume, validation
from ray_workers.resume import choose
from ray_workers.store import keys, rules, versions
from ray_workers.store.attempts import create_run, read_run, start_attempt, this_process
from ray_workers.store.bodies import Condemn, Retire, RolledBack, RunDeleted
from ray_workers.store.errors import (
    FenceLostError,
    NewerFormatError,
    RefusedError,
    StoreUnavailableError,
    VersionNotFoundError,
)
from ray_workers.store.log import RunLog
from ray_workers.store.memory import MemoryStore
from ray_workers.validation import SoundnessPolicy, validate
from tests.support.factories import MadeUpRun
from tests.support.faulty_store import Hooked
from tests.support.plain_log import judge


@pytest.fixture
def run():
    """Versions 1, 2, 3 at steps 10, 20, 30; nobody has judged them."""
    made = MadeUpRun(store=MemoryStore(), name="run")
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
    made.end()
    return made


def choice_of(run, *, required="sound", policy=SoundnessPolicy(), tell=lambda _: None):  # noqa: B008 - frozen
    """A new attempt's choice, the run's state after it, and the attempt's fence."""
    log = RunLog(run.store, run.name, by=this_process())
    fence = start_attempt(log, flow_run_id=uuid.uuid4().hex, run_count=1)
    choice = choose(run.store, log, fence, required=required, policy=policy, tell=tell)
    return choice, read_run(run.store, run.name), fence


def number(choice):
    return choice.point.name.number if choice.point else None


def spoil(run, key):
    data = run.store.get(key)
    run.store.put(key, data[:-1] + bytes([data[-1] ^ 1]))


def test_a_run_without_versions_starts_from_nothing_and_says_so():
    run = MadeUpRun(store=MemoryStore(), name="run")
    choice, state, fence = choice_of(run)
    assert choice.point is None
    assert state.attempts[fence].resume is None
    assert state.attempts[fence].resume_at is not None  # the choice is on record


def test_the_newest_is_judged_in_place_and_chosen(run):
    choice, state, fence = choice_of(run)
    assert number(choice) == 3
    assert (choice.point.run, choice.point.step, choice.point.rung) == ("run", 30, "sound")
    assert not choice.point.foreign
    assert choice.point.manifest_key == run.manifest_key(3)
    assert state.attempts[fence].resume == run.version(3).name
    assert state.attempts[fence].required == "sound"
    assert [state.versions[n].rung for n in (1, 2, 3)] == ["committed", "committed", "sound"]


@pytest.mark.parametrize(
    ("required", "rung"), [("committed", "committed"), ("verified", "sound"), ("sound", "sound")]
)
def test_whatever_is_required_every_byte_is_read_back(run, required, rung):
    choice, state, _ = choice_of(run, required=required)
    assert (number(choice), state.versions[3].rung) == (3, rung)
    run.log.refresh()
    spoil(run, run.shard_keys(3)[1])
    choice, state, fence = choice_of(run, required=required)
    assert number(choice) == 2
    assert run.shard_keys(3)[1] in state.versions[3].quarantine
    (passed,) = state.attempts[fence].passed_over
    assert (passed.version.number, passed.reason) == (3, state.versions[3].quarantine)


def test_the_choice_is_recorded_before_a_byte_is_read(run, monkeypatch):
    run.judge(3, check="verified")
    run.judge(3)
    seen: list[int] = []
    real = versions.verify_bytes

    def reading(store, name, version):
        chosen = read_run(store, name).open_attempt
        assert chosen is not None
        assert chosen.resume is not None
        seen.append(chosen.resume.number)
        return real(store, name, version)

    monkeypatch.setattr(resume, "verify_bytes", reading)
    assert number(choice_of(run)[0]) == 3
    assert seen == [3]


def test_each_candidate_passed_over_has_its_reason(run):
    run.judge(3, reason="a person said so")
    spoil(run, run.shard_keys(2)[0])
    told: list[str] = []
    choice, state, fence = choice_of(run, tell=told.append)
    assert number(choice) == 1
    reasons = {p.version.number: p.reason for p in state.attempts[fence].passed_over}
    assert reasons[3] == "quarantined: a person said so"
    assert run.shard_keys(2)[0] in reasons[2]
    assert choice.passed_over == state.attempts[fence].passed_over
    assert [p.version.number for p in choice.passed_over] == [3, 2]
    assert sum("passed over" in line for line in told) == 1


def test_when_none_holds_it_starts_from_nothing_with_all_reasons(run):
    for version in (1, 2, 3):
        run.store.delete(run.manifest_key(version))
    choice, state, fence = choice_of(run)
    assert choice.point is None
    assert [p.version.number for p in state.attempts[fence].passed_over] == [3, 2, 1]
    assert all(v.quarantine for v in state.versions.values())


def test_abandoned_and_condemned_versions_are_no_candidates(run):
    run.append(RolledBack(to=run.version(2).name))
    run.judge(1, 2, check="sound")
    run.fence = start_attempt(run.log, flow_run_id="f", run_count=7)
    run.series = run.series[:20]
    for step in (40, 50):
        run.commit(step)
    run.judge(4, 5, check="sound")
    name = (run.version(2).name,)
    run.append(Retire(versions=name))
    run.append(Condemn(versions=name))
    for version in (5, 4):
        run.judge(version, reason="bad")
    choice, _, _ = choice_of(run)
    assert number(choice) == 1
    assert [p.version.number for p in choice.passed_over] == [5, 4]


def test_a_retired_version_is_still_a_candidate_and_lives_again(run):
    run.judge(1, 2, 3, check="sound")
    run.append(Retire(versions=(run.version(1).name,)))
    run.judge(3, reason="bad")
    run.judge(2, reason="bad")
    choice, state, _ = choice_of(run)
    assert number(choice) == 1
    assert state.versions[1].status == "live"


def test_an_overtaken_attempt_chooses_nothing(run):
    log = RunLog(run.store, run.name, by=this_process())
    fence = start_attempt(log, flow_run_id="old", run_count=1)
    start_attempt(RunLog(run.store, run.name, by={}), flow_run_id="new", run_count=1)
    with pytest.raises(FenceLostError):
        choose(run.store, log, fence, required="sound", policy=SoundnessPolicy())


def test_a_version_condemned_meanwhile_is_passed_over_and_not_called_damaged(run, monkeypatch):
    real = validate

    def meanwhile(store, version, **values):
        if version.number == 3:
            body = Condemn(versions=(version.name,))
            monkeypatch.setitem(rules._RULES, Condemn, lambda *_: None)
            RunLog(store, run.name, by={}).append(lambda _: body)
            store.delete(run.shard_keys(3)[0])
        return real(store, version, **values)

    monkeypatch.setattr(resume, "validate", meanwhile)
    choice, state, _ = choice_of(run)
    assert number(choice) == 2
    assert state.versions[3].quarantine is None
    assert "condemned" in choice.passed_over[0].reason


def test_what_a_newer_pawl_wrote_is_passed_over_without_a_verdict(run, monkeypatch):
    real, key = versions._read_manifest, run.manifest_key(3)

    def newer(store, name, digest):
        if name == key:
            raise NewerFormatError("written by a newer Pawl")
        return real(store, name, digest)

    monkeypatch.setattr(versions, "_read_manifest", newer)
    choice, state, _ = choice_of(run)
    assert number(choice) == 2
    assert choice.passed_over[0].reason == "written by a newer Pawl"
    assert state.versions[3].rung == "committed"


# --- versions that nothing speaks against are not lost ---------------------------------------------------------------


def broken_check(_version):
    raise RuntimeError("planted")


BROKEN = SoundnessPolicy(checks=(f"{__name__}:broken_check",))


def test_a_store_that_goes_away_in_a_check_is_no_reason_to_begin_anew(run, monkeypatch):
    def away(store, manifest, parent):
        raise StoreUnavailableError("planted")

    monkeypatch.setattr(validation, "measure_shards", away)
    with pytest.raises(StoreUnavailableError):
        choice_of(run)
    state = read_run(run.store, run.name)
    assert state.open_attempt is not None
    assert state.open_attempt.resume_at is None
    monkeypatch.undo()
    assert number(choice_of(run)[0]) == 3


def test_a_check_that_raises_does_not_send_training_back_to_the_beginning(run):
    with pytest.raises(RefusedError) as met:
        choice_of(run, policy=BROKEN)
    text = met.value.message
    assert "version 3 (step 30, verified), which is not known to be sound" in text
    assert "RuntimeError: planted" in text
    assert "start with --required verified" in text
    assert "--resume never" in text
    state = read_run(run.store, run.name)
    assert state.open_attempt is not None
    assert state.open_attempt.resume_at is None
    assert number(choice_of(run, policy=BROKEN, required="verified")[0]) == 3


def test_an_older_version_that_is_trusted_is_resumed_when_newer_ones_cannot_be_judged(
    run,
):
    run.judge(1, check="verified")
    run.judge(1)
    choice, _, _ = choice_of(run, policy=BROKEN)
    assert number(choice) == 1
    assert ["planted" in p.reason for p in choice.passed_over] == [True, True]


def test_before_the_first_drill_restorable_is_refused_and_not_a_start_from_nothing(run):
    with pytest.raises(RefusedError) as met:
        choice_of(run, required="restorable")
    text = met.value.message
    assert "version 3 (step 30, sound), which is not known to be restorable" in text
    assert "`pawl drill run@3`" in text
    assert "--required sound" in text
    run.judge(2, check="restorable")
    assert number(choice_of(run, required="restorable")[0]) == 2


def test_a_first_start_and_one_over_begin_from_nothing_whatever_is_required(run):
    run.append(RolledBack(to=None))
    choice, state, fence = choice_of(run, required="restorable")
    assert choice.point is None
    assert state.attempts[fence].resume_at is not None


def test_what_only_a_newer_pawl_can_read_is_not_begun_anew(run, monkeypatch):
    def newer(*_):
        raise NewerFormatError("written by a newer Pawl")

    monkeypatch.setattr(versions, "_read_manifest", newer)
    with pytest.raises(
        RefusedError, match=r"written by a newer Pawl\. To go on from it, mend that"
    ):
        choice_of(run)


def test_a_fork_does_not_go_back_to_its_origin_past_versions_of_its_own(run):
    child = run.fork(2, "child")
    child.commit(25)
    with pytest.raises(RefusedError, match="version 1"):
        choice_of(child, policy=BROKEN)


# --- a jump against what came before ---------------------------------------------------------------------------------


def test_a_jump_against_the_newest_judged_version_is_not_sound(run):
    run.judge(2, check="verified")
    assert number(choice_of(run)[0]) == 3
    run.log.refresh()
    run.fence = start_attempt(run.log, flow_run_id="f", run_count=2)
    run.commit(40, content=100.0)
    choice, state, _ = choice_of(run)
    assert number(choice) == 3
    assert "a factor of 100; 10 is allowed" in state.versions[4].quarantine


# --- forks -----------------------------------------------------------------------------------------------------------


def test_a_fork_starts_from_its_origin_until_it_has_a_version(run):
    child = run.fork(2, "child")
    choice, state, fence = choice_of(child)
    assert choice.point.foreign
    assert (choice.point.run, choice.point.step) == ("run", 20)
    assert choice.point.manifest_key == run.manifest_key(2)
    assert state.attempts[fence].resume_origin == state.origin
    child.log.refresh()
    child.fence = fence
    child.commit(25)
    choice, _, _ = choice_of(child)
    assert (choice.point.run, number(choice), choice.point.foreign) == ("child", 1, False)


def test_a_fork_whose_origin_is_bad_or_gone_does_not_start_from_nothing(run):
    child = run.fork(2, "child")
    spoil(run, run.shard_keys(2)[0])
    with pytest.raises(VersionNotFoundError, match="whose bytes are bad"):
        choice_of(child)
    run.log.refresh().pins.clear()  # whoever deletes a run with forks does so by force
    run.append(RunDeleted())
    create_run(run.store, "run", by={})
    with pytest.raises(VersionNotFoundError, match="which is gone"):
        choice_of(child)


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
