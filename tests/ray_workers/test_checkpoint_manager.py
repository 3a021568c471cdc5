"""The coordinator of one attempt: complete versions, reports that are late or void, and the failure budget."""

from dataclasses import replace
from unittest import mock

import pytest

from ray_workers.checkpoint_manager import CheckpointManager
from ray_workers.messages import RankState, SaveId, ShardReport, StagedPart, StagedShard
from ray_workers.pipeline import store_and_report
from ray_workers.reuse import Offer, Reuse
from ray_workers.store import manifest as manifest_module
from ray_workers.store.attempts import (
    create_run,
    read_run,
    start_attempt,
    start_incarnation,
)
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import (
    FailureBudgetSpentError,
    FenceLostError,
    OutcomeUnknownError,
    StoreRefusedError,
)
from ray_workers.store.keys import new_shard_key
from ray_workers.store.layout import Chunk, TensorLayout
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import Progress, VersionRef
from ray_workers.store.memory import MemoryStore
from ray_workers.store.records import canonical_json
from ray_workers.store.shards import ShardEntry
from ray_workers.store.versions import load_manifest
from ray_workers.uploader import Uploader
from ray_workers.version_assembly import AttemptIdentity
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.small_training import patient_process, small_loop


@pytest.fixture
def store():
    return MemoryStore()


def new_manager(store, *, budget=1, parent=None, flow="flow"):
    log = create_run(store, "run", by={})
    count = len(log.refresh().attempts) + 1
    fence = start_attempt(log, flow_run_id=flow, run_count=count)
    identity = AttemptIdentity(
        run="run", run_id=str(log.state.run_id), fence=fence, parent=parent, config={"lr": 1}, by={}
    )
    return CheckpointManager(store, identity, failure_budget=budget)


def save(step, number=0):
    return SaveId(step=step, number=number)


def report(manager, step, rank=0, **values):
    return manager.gather(made_report(manager, step, rank, **values))


def made_report(  # noqa: PLR0913 - all that a report can be
    manager, step, rank=0, *, ranks=2, fence=None, rows=1, number=0, reused=None
):
    fence = fence or manager._attempt.fence
    path = f"shared/model/w{rank}"
    chunk = Chunk(offsets=(0,), shape=(rows,), shard=0, name=path)
    staged = StagedShard(
        rank=rank,
        world_size=ranks,
        progress=Progress(step=step, epoch=0, finished=False),
        payload="state",
        path="/nowhere",
        parts=(
            StagedPart(
                begin=0,
                bytes=100,
                layout={path: TensorLayout(dtype="F32", shape=(1,), chunks=(chunk,))},
            ),
        ),
        state=RankState(
            rank_plain={"rank": rank},
            plain={"of": "rank 0"} if rank == 0 else None,
            metrics={"loss": 0.5} if rank == 0 else {},
        ),
        staged_s=0.25,
        save_number=number,
    )
    entry = reused or ShardEntry(
        rank=rank, key=new_shard_key("run", fence), bytes=100, digest=digest_of(b"x")
    )
    return ShardReport(
        staged=staged,
        entries=(entry,),
        reused=frozenset({reused.key} if reused else ()),
        fence=fence,
        upload_s=0.5,
    )


def kinds(manager):
    return [event.kind for event in manager.drain_events()]


def test_the_report_that_completes_a_version_commits_it(store):
    manager = new_manager(store)
    assert report(manager, 10, rank=1) is None
    assert manager.busy()
    assert manager.outcome(save(10)) is None
    outcome = report(manager, 10, rank=0)
    assert (outcome.step, outcome.number, outcome.stop) == (10, 1, None)
    assert manager.outcome(save(10)) == outcome
    assert not manager.busy()
    state = read_run(store, "run")
    manifest = load_manifest(store, "run", state.versions[1])
    assert [shard.rank for shard in manifest.shards] == [0, 1]
    assert manifest.rank_plain == ({"rank": 0}, {"rank": 1})
    assert manifest.plain == {"of": "rank 0"}
    assert (manifest.config, manifest.metrics) == ({"lr": 1}, {"loss": 0.5})
    assert manifest.tensors["shared/model/w1"].chunks[0].shard == 1
    (event,) = manager.drain_events()
    assert event.kind == "committed"
    assert event.details["number"] == 1
    assert "Version 1 committed: step 10" in event.message
    assert manager.drain_events() == []


def test_versions_follow_each_other_as_parents(store):
    first = VersionRef(run="other", number=7, digest="a" * 64)
    manager = new_manager(store, parent=first)
    for step in (10, 20):
        report(manager, step, ranks=1)
    state = read_run(store, "run")
    assert load_manifest(store, "run", state.versions[1]).parent == first
    second = load_manifest(store, "run", state.versions[2]).parent
    assert second == VersionRef(run=None, number=1, digest=state.versions[1].manifest)


def test_a_report_said_twice_is_answered_and_commits_once(store):
    manager = new_manager(store)
    report(manager, 10, rank=1)
    assert report(manager, 10, rank=1) is None  # the same rank again completes nothing
    outcome = report(manager, 10, rank=0)
    assert not outcome.resend
    # What the version names is what the first one stored.
    assert report(manager, 10, rank=0) == replace(outcome, resend=True)
    assert list(read_run(store, "run").versions) == [1]


def test_what_was_stored_once_more_behind_a_commit_is_nothing_to_build_on(store, tmp_path):
    manager = new_manager(store)
    buffer = tmp_path / "buffer"
    buffer.write_bytes(b"x" * 100)
    staged = replace(made_report(manager, 10, ranks=1).staged, path=str(buffer))

    def from_a_new_agent():
        uploader, fence = Uploader(store, "run", tries=1), manager._attempt.fence
        return store_and_report(uploader, staged, fence, manager.gather, manager.give_up)

    first, second = from_a_new_agent(), from_a_new_agent()
    named = load_manifest(store, "run", read_run(store, "run").versions[1]).shards
    assert (first.shards, second.shards) == (named, ())
    reuse = Reuse(rank=0, full_every=10)
    offer = Offer(groups=(frozenset({"shared/model/w0"}),))
    for outcome, known in ((first, named), (second, ())):
        reuse.heard(offer, outcome)
        assert reuse._stored == known


def test_a_shard_that_comes_behind_its_dropped_save_says_nothing_of_what_is_stored(store):
    manager = new_manager(store)
    manager.give_up(save(10), "rank 1: no")
    assert not report(manager, 10, rank=0).resend


def test_a_report_under_another_fence_is_void(store):
    manager = new_manager(store)
    report(manager, 10, rank=1)
    outcome = report(manager, 10, rank=0, fence=99)
    assert outcome.number is None
    assert "fence 99" in outcome.reason
    assert report(manager, 10, rank=0).number is None  # the version stays dropped
    assert read_run(store, "run").versions == {}


def report_both(manager, step, **values):
    report(manager, step, rank=0, **values)
    return report(manager, step, rank=1, **values)


def steps(store):
    return [v.step for v in read_run(store, "run").versions.values()]


def test_shards_of_two_saves_come_in_any_order_and_both_become_versions(store):
    manager = new_manager(store)
    report(manager, 10, rank=0)
    report(manager, 20, rank=0)
    assert report(manager, 10, rank=1).number == 1
    assert report(manager, 20, rank=1).number == 2
    assert steps(store) == [10, 20]


def test_a_save_that_a_newer_version_overtook_never_becomes_one(store):
    manager = new_manager(store)
    report(manager, 10, rank=0)
    assert report_both(manager, 20).number == 1
    assert not manager.busy()  # nothing waits for what cannot come
    late = report(manager, 10, rank=1)
    assert late.number is None
    assert "step 20 became a version before" in late.reason
    assert steps(store) == [20]


def test_nor_does_one_of_which_no_shard_was_there_yet(store):
    manager = new_manager(store)
    assert report_both(manager, 20).number == 1
    assert report(manager, 10, rank=0).number is None
    assert report(manager, 10, rank=1).number is None
    assert steps(store) == [20]


def test_a_newer_save_that_fails_takes_no_older_one_with_it(store):
    manager = new_manager(store)
    report(manager, 10, rank=0)
    assert report_both(manager, 20, rows=0).number is None
    assert report(manager, 10, rank=1).number == 1
    assert steps(store) == [10]


def test_a_manifest_that_covers_too_little_is_dropped_and_not_committed(store):
    manager = new_manager(store)
    outcome = report(manager, 10, ranks=1, rows=0)
    assert outcome.number is None
    assert "shared/model/w0" in outcome.reason
    assert read_run(store, "run").versions == {}


# --- the budget ------------------------------------------------------------------------------------------------------


def test_one_more_than_the_budget_in_a_row_stops_the_attempt(store):
    manager = new_manager(store, budget=2)
    for step in (10, 20):
        assert manager.give_up(save(step), "rank 0: no answer").stop is None
    assert manager.stop_reason is None
    outcome = manager.give_up(save(30), "rank 0: no answer")
    assert (outcome.number, outcome.stop, manager.stop_reason) == (None, *["budget_spent"] * 2)
    assert kinds(manager) == ["dropped", "dropped", "dropped", "budget_spent"]


def test_a_commit_refills_the_budget(store):
    manager = new_manager(store, budget=1)
    for step in (10, 30, 50):
        assert manager.give_up(save(step), "no").stop is None
        assert report(manager, step + 10, ranks=1).number is not None
    assert manager.stop_reason is None


def test_a_step_is_given_up_once(store):
    manager = new_manager(store, budget=1)
    report(manager, 10, rank=0)
    first = manager.give_up(save(10), "rank 1: no answer")
    assert manager.give_up(save(10), "rank 0: no answer either") == first
    assert report(manager, 10, rank=1) == first
    assert manager.stop_reason is None
    assert not manager.busy()


def test_a_step_that_failed_is_tried_anew_and_each_try_counts(store):
    """A training's last step is saved until it stands, or until the budget is spent; never for ever."""
    manager = new_manager(store, budget=2)
    for number in (0, 1):
        assert manager.give_up(save(10, number), "no").stop is None
    assert report_both(manager, 10, number=2).number == 1
    stops = [manager.give_up(save(20, number), "no").stop for number in (3, 4, 5)]
    assert stops == [None, None, "budget_spent"]
    assert kinds(manager).count("dropped") == 5


def test_a_shard_under_another_fence_leaves_nothing_half_gathered(store):
    manager = new_manager(store)
    report(manager, 10, rank=1)
    report(manager, 10, rank=0, fence=99)
    assert not manager.busy()


def test_what_was_committed_is_not_given_up(store):
    manager = new_manager(store)
    done = report(manager, 10, ranks=1)
    assert manager.give_up(save(10), "late") == done


def test_what_a_dead_coordinator_took_with_it_spends_nothing_and_nobody_waits_for_it(store):
    manager = new_manager(store, budget=0)
    assert report(manager, 10, rank=1) is None  # its other shard went to the one that died
    for step in (10, 20, 30):
        assert manager.lose(save(step), "it died").number is None
    assert (manager.busy(), manager.stop_reason) == (False, None)
    assert kinds(manager) == ["dropped"]  # of the others it is not known what became
    late = report(manager, 20, rank=1)  # of the save that was lost
    assert (late.number, manager.busy()) == (None, False)
    report(manager, 40, rank=0)
    assert report(manager, 40, rank=1).number == 1
    assert manager.lose(save(40), "it died").number == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_was_lost_becomes_a_version_when_it_is_saved_once_more(store, late):
    """A training's last step is saved until it stands: what was lost must not be lost for ever."""
    manager = new_manager(store, budget=0)
    manager.lose(save(10), "it died")
    if late:
        assert report(manager, 10, rank=1).number is None
    else:
        manager.lose(save(10), "it died")
    assert report(manager, 10, rank=0, number=1) is None
    assert manager.busy()
    assert report(manager, 10, rank=1, number=1).number == 1


def test_a_store_that_refuses_the_commit_spends_the_budget():
    class Full(MemoryStore):
        full = False

        def put(self, key, data):
            if self.full:
                raise StoreRefusedError(f"No space left on device for {key}.")
            super().put(key, data)

    store = Full()
    manager = new_manager(store, budget=0)
    store.full = True
    outcome = report(manager, 10, ranks=1)
    assert "No space left on device" in outcome.reason
    assert outcome.stop == "budget_spent"


def test_a_version_of_which_no_answer_came_is_what_its_next_try_becomes(store):
    manager = new_manager(store, budget=1)
    manager._log.append = _unanswered(manager._log.append)
    first = report(manager, 10, ranks=1)
    assert (first.number, first.stop) == (None, None)
    again = report(manager, 10, ranks=1, number=1)
    assert (again.number, again.stop) == (1, None)
    assert again.resend  # what it names is the first try's, and not what this one stored
    assert steps(store) == [10]
    assert report(manager, 20, ranks=1, number=2).number == 2
    assert [e.details.get("number") for e in manager.drain_events()] == [None, 1, 2]
    newest = load_manifest(store, "run", read_run(store, "run").versions[2])
    first_version = read_run(store, "run").versions[1]
    assert newest.parent == VersionRef(run=None, number=1, digest=first_version.manifest)


def _unanswered(append):
    """The first record lands, and its answer is lost."""
    answers = []

    def once(decide):
        record = append(decide)
        answers.append(record)
        if len(answers) == 1:
            raise OutcomeUnknownError("No answer.")
        return record

    return once


# --- the coordinator's successor -------------------------------------------------------------------------------------


def test_a_successor_goes_on_building_on_the_versions_of_the_one_that_died(store):
    """Frozen parts are named and not sent again: the first save after a restart is no exception."""
    first = new_manager(store)
    frozen = made_report(first, 10, ranks=1)
    first.gather(frozen)
    version = read_run(store, "run").versions[1]
    own = first._attempt
    parent = VersionRef(run=None, number=1, digest=version.manifest)
    fence = start_incarnation(RunLog(store, "run", by={}), own.fence, 1)
    second = CheckpointManager(store, replace(own, fence=fence, parent=parent), failure_budget=0)
    outcome = report(second, 20, ranks=1, reused=frozen.entries[0])
    assert (outcome.number, outcome.reason) == (2, None)
    assert read_run(store, "run").versions[2].base == 1


# --- the fence -------------------------------------------------------------------------------------------------------


def test_an_overtaken_attempt_commits_nothing_and_is_told_by_whom(store):
    old = new_manager(store, flow="old")
    report(old, 10, ranks=1)
    new = new_manager(store, flow="new")
    outcome = report(old, 20, ranks=1)
    assert (outcome.number, outcome.stop, old.stop_reason) == (None, "fence_lost", "fence_lost")
    event = old.drain_events()[-1]
    assert event.kind == "fence_lost"
    assert event.details["by"]["flow_run_id"] == "new"
    assert report(new, 20, ranks=1).number == 2
    assert [v.fence for v in read_run(store, "run").versions.values()] == [
        old._attempt.fence,
        new._attempt.fence,
    ]


def test_the_first_reason_to_stop_stays(store):
    manager = new_manager(store, budget=0)
    manager.stop("stopped")
    manager.stop("fence_lost")
    assert manager.give_up(save(10), "no").stop == "stopped"
    assert report(manager, 20, ranks=1).stop == "stopped"


# --- with a real training --------------------------------------------------------------------------------------------


def _fail_uploads(first, last):
    """Uploads of shards fail from the `first` to the `last` version, every try of them."""
    seen = {"puts": 0}

    def wrap(store):
        def plan(call):
            if call.verb != "put" or "/shards/" not in call.key:
                return None
            seen["puts"] += 1
            return Fault.UNAVAILABLE if first <= seen["puts"] <= last else None

        return FaultyStore(store, plan)

    return wrap


def test_saves_that_fail_are_dropped_and_training_goes_on(tmp_path):
    run = patient_process(tmp_path, tries=1, failure_budget=3, wrap_store=_fail_uploads(2, 4))
    done = run.attempt(small_loop())
    assert [v.step for v in reversed(done.state.newest_first())] == [2, 10, 12, 14, 15]
    assert kinds(done.manager).count("dropped") == 3


def test_a_last_save_that_fails_is_tried_within_the_budget(tmp_path):
    run = patient_process(tmp_path, tries=1, failure_budget=3, wrap_store=_fail_uploads(8, 10))
    done = run.attempt(small_loop())
    assert [v.step for v in reversed(done.state.newest_first())][-2:] == [14, 15]
    assert kinds(done.manager).count("dropped") == 3


def test_a_last_save_that_keeps_failing_ends_the_attempt(tmp_path):
    run = patient_process(tmp_path, tries=1, failure_budget=3, wrap_store=_fail_uploads(8, 999))
    with pytest.raises(FailureBudgetSpentError, match="a retry resumes"):
        run.attempt(small_loop())
    assert patient_process(tmp_path).attempt(small_loop()).resumed.step == 14


def test_a_try_that_fails_costs_nothing_if_the_next_one_succeeds(tmp_path):
    run = patient_process(tmp_path, tries=3, failure_budget=0, wrap_store=_fail_uploads(1, 2))
    assert kinds(run.attempt(small_loop()).manager).count("dropped") == 0


def test_a_spent_budget_ends_the_attempt_and_a_retry_resumes(tmp_path):
    run = patient_process(tmp_path, tries=1, failure_budget=1, wrap_store=_fail_uploads(3, 99))
    with pytest.raises(FailureBudgetSpentError, match="a retry resumes"):
        run.attempt(small_loop())
    state = read_run(run.target.open().store, "run")
    assert [v.step for v in reversed(state.newest_first())] == [2, 4]
    again = patient_process(tmp_path).attempt(small_loop())
    assert again.resumed.step == 4


def test_a_training_that_is_overtaken_ends_there(tmp_path):
    run = patient_process(tmp_path)

    def take_over(_):
        log = RunLog(run.target.open().store, "run", by={})
        start_attempt(log, flow_run_id="newer", run_count=1)

    with pytest.raises(FenceLostError, match="taken over"):
        run.attempt(small_loop(spoil_at=5, spoil=take_over))
    state = read_run(run.target.open().store, "run")
    assert [v.step for v in reversed(state.newest_first())] == [2, 4]


def test_a_version_tells_what_was_dropped_before_it(store):
    manager = new_manager(store, budget=5)
    manager.give_up(save(10), "the disk is full")
    manager.give_up(save(20), "no answer " + "x" * 1000)
    for step in (30, 40):
        for rank in (0, 1):
            report(manager, step, rank)
    first, second = (
        load_manifest(store, "run", version).environment
        for _, version in sorted(read_run(store, "run").versions.items())
    )
    assert (first["dropped_saves"], first["dropped_reason"][:10]) == ("2", "no answer ")
    assert len(first["dropped_reason"]) == 500
    assert not {"dropped_saves", "dropped_reason"} & set(second)


def test_a_manifest_is_spelled_once_for_each_version(store, monkeypatch):
    spell = mock.Mock(side_effect=canonical_json)
    monkeypatch.setattr(manifest_module, "canonical_json", spell)
    manager = new_manager(store)
    for step in (10, 20):
        report(manager, step, ranks=1)
    assert spell.call_count == 2


def test_a_manifest_that_no_reader_would_take_is_no_version(store, monkeypatch):
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 500)
    manager = new_manager(store)
    outcome = report(manager, 10, ranks=1)
    assert outcome.number is None
    assert "no reader takes more than 500" in outcome.reason
    assert read_run(store, "run").versions == {}


def test_an_outcome_says_how_much_of_the_version_was_sent(store):
    manager = new_manager(store)
    outcome = report(manager, 10, ranks=1)
    (event,) = manager.drain_events()
    assert outcome.bytes_new > 100
    assert (outcome.bytes, outcome.bytes_new) == (
        event.details["bytes"],
        event.details["bytes_new"],
    )
