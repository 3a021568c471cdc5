import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ray_workers.health import assess_run
from ray_workers.health_facts import look_at_root
from ray_workers.health_values import Objective, RunFacts, percentile
from ray_workers.interval_account import account_of
from ray_workers.interval_facts import read_history
from ray_workers.policies.retention import RetentionPolicy
from ray_workers.storage_accounts import let_go_of
from ray_workers.store import keys, log
from ray_workers.store.bodies import Condemn, ResumeChosen, Retire, RolledBack, RunDeleted
from ray_workers.store.clock import utc_now
from ray_workers.store.memory import MemoryStore
from tests.support.factories import MadeUpRun

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
RUNNING = RunFacts(status="running", world_size=4)


def at(seconds_ago):
    return (NOW - timedelta(seconds=seconds_ago)).isoformat()


def risk_of(health):
    assert health.at_risk is not None
    return health.at_risk


@pytest.fixture
def run():
    return MadeUpRun(store=MemoryStore())


def aged(run, started, commits, *, ended=None):
    """The run's state as if its newest attempt had started, committed and ended so many seconds ago."""
    state = run.log.refresh()
    fence = max(state.attempts)
    state.attempts[fence] = replace(
        state.attempts[fence], at=at(started), ended_at=None if ended is None else at(ended)
    )
    own = [n for n in sorted(state.versions) if state.versions[n].fence == fence]
    for number, ago in zip(own, commits, strict=True):
        state.versions[number] = replace(state.versions[number], at=at(ago))
    return state


def test_work_at_risk_is_that_since_the_version_a_resume_would_take(run):
    run.start()
    for step in (10, 20, 30):
        run.commit(step)
    run.judge(1, check="verified")
    state = aged(run, 1000, (900, 600, 300))
    health = assess_run(state, RUNNING, Objective(), NOW)
    assert risk_of(health).seconds == pytest.approx(300)  # the attempt asks for `committed` only
    assert risk_of(health).steps == 10
    assert risk_of(health).worker_hours == pytest.approx(4 / 12)
    assert [(r.rung, r.number, r.age_s) for r in health.rungs] == [
        ("committed", 3, 300.0),
        ("verified", 1, 900.0),
    ]
    fence = max(state.attempts)
    state.attempts[fence] = replace(state.attempts[fence], required="verified")
    health = assess_run(state, RUNNING, Objective(), NOW)
    assert risk_of(health).seconds == pytest.approx(900)
    assert (health.verdict, risk_of(health).steps) == ("warning", 30)
    assert "15.0 min of work at risk, 10 allowed: no newer version is verified" in health.reason


def test_a_new_attempt_has_only_its_own_time_at_risk(run):
    run.start()
    run.commit(10)
    run.end("failed", "out of memory")
    run.start(1)
    state = aged(run, 60, ())
    health = assess_run(state, RUNNING, Objective(), NOW)
    assert (risk_of(health).seconds, health.verdict) == (60.0, "ready")
    assert health.failures[0].endswith("failed: out of memory")


def test_before_the_first_version_it_is_ready_only_for_a_while(run):
    run.start()
    state = aged(run, 30, ())
    assert assess_run(state, RUNNING, Objective(), NOW).verdict == "ready"
    health = assess_run(state, RUNNING, Objective(at_risk_s=10), NOW)
    assert (health.verdict, health.reason) == ("critical", "it has no version to resume from")


def test_a_run_whose_versions_are_all_quarantined_is_critical(run):
    run.start()
    run.commit(10)
    run.judge(1, reason="NaN")
    health = assess_run(aged(run, 60, (30,)), RUNNING, Objective(), NOW)
    assert (health.verdict, health.quarantined) == ("critical", ((1, "NaN"),))
    assert "1 quarantined" in health.reason


def test_a_fresh_start_is_not_judged_by_a_quarantined_version_that_was_left_behind(run):
    run.start()
    run.commit(10)
    run.judge(1, reason="NaN")
    run.end("failed")
    run.append(RolledBack(to=None))
    run.start()
    health = assess_run(aged(run, 30, ()), RUNNING, Objective(), NOW)
    assert (health.verdict, health.reason) == (
        "ready",
        "it began a moment ago and has no version yet",
    )


@pytest.mark.parametrize(
    ("outcome", "reason", "verdict"),
    [
        ("failed", None, "warning"),
        ("completed", None, "ready"),
        ("interrupted", "SIGTERM (TerminationSignal)", "warning"),
        (
            "interrupted",
            "node draining (node 10.0.0.7, rank 1): Run 'r' was interrupted",
            "warning",
        ),
        ("interrupted", "time limit: Run 'r' was interrupted at step 10", "warning"),
        ("interrupted", "resize (2 to 3 workers): …", "warning"),
        ("interrupted", "Ctrl-C", "ready"),
        ("interrupted", "cancelled", "ready"),
        ("interrupted", "cancelled: the Ray job was stopped", "ready"),
    ],
)
def test_a_run_that_stopped_and_is_not_resumed_is_a_warning(run, outcome, reason, verdict):
    run.start()
    run.commit(10)
    run.end(outcome, reason)
    facts = RunFacts(status=outcome)
    health = assess_run(aged(run, 9000, (8000,), ended=7000), facts, Objective(), NOW)
    assert (health.verdict, health.at_risk) == (verdict, None)


def test_a_preempted_run_says_what_interrupted_it(run):
    run.start()
    run.commit(10)
    run.end("interrupted", "node draining (node 10.0.0.7, rank 1): …")
    (health,) = look_at_root(run.store, Objective()).runs
    assert health.reason.startswith("it was interrupted (preempted) and nobody goes on with it")


def test_recovery_is_measured_by_drills_and_else_by_resumes(run):
    run.start()
    run.commit(10)
    run.end("failed")
    run.start(1)
    run.timed = {"verify_s": 20.0, "start_s": 60.0, "restore_s": 39.0, "warm_up_s": 1.0}
    run.commit(20)
    run.restart_actor()
    run.commit(30)  # tells of the same start
    (health,) = look_at_root(run.store, Objective()).runs
    assert (health.recovery.restarts_s, health.recovery.p95_s) == ((120.0,), 120.0)
    drilled = replace(RUNNING, drills_s=(1.0, 2.0, 400.0), restarts_s=(120.0,))
    health = assess_run(run.log.refresh(), drilled, Objective(), datetime.fromisoformat(utc_now()))
    assert (health.recovery.median_s, health.recovery.p95_s) == (2.0, 400.0)
    assert (health.verdict, health.reason[:22]) == ("warning", "recovery takes 6.7 min")


def test_a_long_interval_between_saves_is_no_slow_recovery(run):
    run.start()
    run.commit(10)
    run.end("failed")
    run.start(1)
    run.timed = {"verify_s": 1.0, "start_s": 6.0, "restore_s": 2.0, "warm_up_s": 1.0}
    run.commit(20)
    state = aged(run, 1300, (100,))
    facts = replace(RUNNING, restarts_s=(10.0,))
    health = assess_run(state, facts, Objective(), NOW)
    assert (health.recovery.p95_s, health.verdict) == (10.0, "ready")


def test_a_completed_run_has_nothing_to_recover(run):
    run.start()
    run.commit(10)
    run.end()
    slow = RunFacts(status="completed", drills_s=(4000.0,))
    assert assess_run(aged(run, 900, (800,)), slow, Objective(), NOW).verdict == "ready"
    failed = replace(slow, status="failed")
    assert "recovery takes" in assess_run(aged(run, 900, (800,)), failed, Objective(), NOW).reason


def test_saves_that_are_overdue_are_counted(run):
    run.start()
    for step in (10, 20, 30):
        run.commit(step)
    assert assess_run(aged(run, 500, (400, 300, 199)), RUNNING, Objective(), NOW).rhythm.missed == 0
    rhythm = assess_run(aged(run, 900, (800, 700, 600)), RUNNING, Objective(), NOW).rhythm
    assert (rhythm.interval_s, rhythm.missed) == (100.0, 5)
    ended = replace(RUNNING, status="completed")
    assert assess_run(aged(run, 900, (800, 700, 600)), ended, Objective(), NOW).rhythm.missed == 0


def test_the_optimal_interval_is_youngs(run):
    run.start()
    assert look_at_root(run.store, Objective()).runs[0].rhythm.optimal_s is None
    run.timed = {"staging_s": 1.0}
    run.commit(10)
    run.end("interrupted", "Ctrl-C")
    run.start(1)
    run.commit(20)
    (health,) = look_at_root(run.store, Objective()).runs
    account = account_of(read_history(run.store, "digits"))
    assert account.decision is not None
    assert health.rhythm.optimal_s == pytest.approx(account.decision.seconds, rel=1e-3)
    # Nobody failed, so it is the optimum at the rate that is known beforehand.
    young = math.sqrt(2 * 1.0 * account.rate.mtbf_s(2))
    assert health.rhythm.optimal_s == pytest.approx(young, rel=0.02)


# --- an actor that was started again ----------------------------------------------------------------------------------


def restarted(run, required):
    """Its state: training began 1000 s ago and commits every 100 s, from 500 s on under another fence."""
    run.start()
    run.commit(10)
    run.commit(20)
    run.restart_actor()
    for step in (30, 40, 50):
        run.commit(step)
    state = aged(run, 500, (300, 200, 100))
    begun = min(state.attempts)
    state.attempts[begun] = replace(state.attempts[begun], at=at(1000), required=required)
    for number, ago in ((1, 900), (2, 600)):
        state.versions[number] = replace(state.versions[number], at=at(ago))
    return state


@pytest.mark.parametrize("required", ["committed", "verified"])
def test_after_an_actor_restart_the_required_rung_still_counts(run, required):
    state = restarted(run, required)
    if required == "verified":
        state.versions[5] = replace(state.versions[5], passed=("verified",))
    health = assess_run(state, RUNNING, Objective(at_risk_s=150), NOW)
    assert (risk_of(health).seconds, health.verdict) == (100.0, "ready")
    assert risk_of(health).steps == 5  # 40 steps in 800 s


def test_work_from_before_an_actor_restart_is_at_risk_too(run):
    state = restarted(run, "verified")
    assert risk_of(assess_run(state, RUNNING, Objective(), NOW)).seconds == 1000
    state.versions[1] = replace(state.versions[1], passed=("verified",))
    health = assess_run(state, RUNNING, Objective(), NOW)
    assert (risk_of(health).seconds, health.verdict) == (900.0, "warning")


def test_an_actor_restart_is_no_failure_and_no_gap_in_the_rhythm(run):
    health = assess_run(restarted(run, "committed"), RUNNING, Objective(), NOW)
    assert health.failures == ()
    assert health.rhythm.interval_s == 200  # the median of 300, 300, 100, 100


def test_who_was_asked_to_end_did_not_fail(run):
    run.start()
    run.end("interrupted", "cancelled")
    run.start()
    run.end("interrupted", "resize (2 to 3 workers): …")
    run.start()
    run.end("failed", "Training of run 'digits' failed on rank 0: ValueError: mine")
    run.start()
    run.start()  # the one before left no end
    health = assess_run(aged(run, 10, ()), RUNNING, Objective(), NOW)
    lost, mine = health.failures
    assert "lost: its end was not recorded" in lost
    assert mine.endswith("ValueError: mine")


# --- what a clock and an upload hide ----------------------------------------------------------------------------------


def test_what_was_done_while_a_version_was_on_its_way_is_at_risk(run):
    run.start()
    run.append(ResumeChosen(fence=run.fence, version=None, required="sound"))
    run.timed = {"durable_s": 480.0}
    run.commit(10)
    run.judge(1)
    run.timed = {"durable_s": 1.0}
    for step in range(20, 260, 10):  # more than those whose manifests are read anyway
        run.commit(step)
    for storage in (True, False):
        (health,) = look_at_root(run.store, Objective(), storage=storage).runs
        assert risk_of(health).seconds == pytest.approx(480, abs=30)


def test_a_version_is_at_risk_from_the_begin_of_its_copy(run):
    run.start()
    run.commit(10)
    run.commit(20)
    facts = replace(RUNNING, until_committed_s={1: 5.0, 2: 480.0})
    health = assess_run(aged(run, 1000, (700, 200)), facts, Objective(), NOW)
    assert (risk_of(health).seconds, health.verdict) == (680.0, "warning")


def test_a_clock_that_is_ahead_is_a_warning_and_hides_nothing(run):
    run.start()
    assert assess_run(aged(run, -50, ()), RUNNING, Objective(), NOW).verdict == "ready"
    health = assess_run(aged(run, -3600, ()), RUNNING, Objective(), NOW)
    assert (health.verdict, "60.0 min ahead" in health.reason) == ("warning", True)
    run.commit(10)
    assert assess_run(aged(run, 300, (-50,)), RUNNING, Objective(), NOW).verdict == "ready"
    health = assess_run(aged(run, -3000, (-3300,)), RUNNING, Objective(), NOW)
    assert health.verdict == "warning"
    assert "its clock is 55.0 min ahead of the clock here" in health.reason
    done = assess_run(aged(run, 300, (-3300,)), RunFacts(status="completed"), Objective(), NOW)
    assert done.verdict == "ready"


def test_damaged_slots_are_a_warning(run):
    run.start()
    run.commit(10)
    state = aged(run, 60, (30,))
    state.unrepaired = (7,)
    health = assess_run(state, RUNNING, Objective(), NOW)
    assert (health.verdict, health.reason) == (
        "warning",
        "log slots 7 are damaged and not repaired",
    )


def test_a_percentile_is_a_value_that_was_measured():
    assert percentile([], 95) is None
    assert percentile([3.0], 95) == 3.0
    assert percentile(list(range(1, 101)), 95) == 95
    assert percentile([1, 2, 3, 4], 50) == 2


def test_a_root_is_looked_at_as_a_whole(run):
    run.start()
    for step in (10, 20, 30, 40):
        run.commit(step)
    run.judge(1, 2, 3, 4)
    run.end()
    dead = MadeUpRun(store=run.store, name="dead")
    dead.start()
    dead.commit(10)
    dead.end("failed", "disk full")
    orphan = keys.new_shard_key("dead", dead.fence)
    run.store.put(orphan, b"x" * 77)
    report = look_at_root(run.store, Objective(), retention=RetentionPolicy(keep_last=1))
    assert {health.run: health.verdict for health in report.runs} == {
        "dead": "warning",
        "digits": "ready",
    }
    assert (report.verdict, [health.run for health in report.missed]) == ("warning", ["dead"])
    assert report.reason.startswith("dead: it failed")
    assert report.storage is not None
    assert report.storage.orphans == 77
    assert report.storage.stored == sum(
        v.bytes for made in (run, dead) for v in made.log.refresh().versions.values()
    )
    assert report.storage.retention_would_free == run.version(1).bytes + run.version(2).bytes
    json.dumps(report.to_json(), allow_nan=False)


def test_what_a_running_attempt_may_still_commit_is_no_orphan(run):
    run.start()
    run.store.put(keys.new_shard_key("digits", run.fence), b"x" * 77)
    report = look_at_root(run.store, Objective())
    assert report.storage is not None
    assert report.storage.orphans == 0


def test_a_log_that_cannot_be_read_is_critical_and_a_spent_budget_a_warning(run):
    run.start()
    run.commit(10)
    run.end()
    report = look_at_root(run.store, Objective(budget_bytes=1))
    assert (report.verdict, report.reason) == ("warning", "the storage budget is spent")
    run.store.put("runs/Bad/log/00000000000000000001.json", b"x")
    report = look_at_root(run.store, Objective(), storage=False)
    assert report.verdict == "critical"
    assert report.reason.startswith("Bad: The run name")
    assert report.storage is None


def test_what_a_sweep_has_not_taken_yet_are_orphans(run):
    run.start()
    for step in (10, 20, 30):
        run.commit(step)
    run.judge(1, 2, 3)
    run.end()
    given_up = run.version(1)
    run.append(Retire(versions=(given_up.name,)))
    run.append(Condemn(versions=(given_up.name,)))
    deleted = MadeUpRun(store=run.store, name="gone")
    deleted.start()
    deleted.commit(10)
    waiting = [*run.shard_keys(1), *deleted.shard_keys(1)]
    deleted.end()
    deleted.append(RunDeleted())
    report = look_at_root(run.store, Objective())
    assert [health.run for health in report.runs] == ["digits"]
    assert report.storage is not None
    assert report.storage.orphans == sum(len(run.store.get(key)) for key in waiting)
    assert report.storage.stored == run.version(2).bytes + run.version(3).bytes


def test_growth_is_net_of_what_retention_let_go(run, monkeypatch):
    """A version a day for twenty days; from the third on the oldest but two is given up."""
    days = 0
    monkeypatch.setattr(log, "utc_now", lambda: at(86_400 * (20 - days)))
    run.start()
    for days in range(20):
        number = run.commit(10 * (days + 1), curve={})
        run.judge(number)
        if number > 2:
            old = run.version(number - 2).name
            run.append(Retire(versions=(old,)))
            run.append(Condemn(versions=(old,)))
    storage = look_at_root(run.store, Objective(budget_bytes=10**6), now=NOW).storage
    assert storage is not None
    assert storage.stored == sum(run.version(number).bytes for number in (19, 20))
    assert storage.growth_per_day == pytest.approx(0, abs=storage.stored / 100)
    gone = {item.at: item.until for item in let_go_of(run.log.refresh(), share=0.5)}
    assert gone[run.version(5).at] == run.version(7).at


def test_a_young_root_grows_by_what_it_kept_since_the_first_commit_of_its_log(run, monkeypatch):
    hours = 48
    monkeypatch.setattr(log, "utc_now", lambda: at(3600 * hours))
    run.start()
    run.commit(10)
    hours = 2
    run.commit(20)
    run.commit(30)
    run.judge(1, 2, 3)
    run.append(Retire(versions=(run.version(1).name,)))
    run.append(Condemn(versions=(run.version(1).name,)))
    storage = look_at_root(run.store, Objective(), now=NOW).storage
    assert storage is not None
    assert storage.growth_per_day == pytest.approx(storage.stored / 2)


def test_drills_are_read_from_the_log(run):
    from ray_workers.store.bodies import Verdict  # noqa: PLC0415 - one use

    run.start()
    run.commit(10)
    for seconds in (1.5, 2.5):
        run.append(
            Verdict(
                versions=(run.version(1).name,), check="restorable", passed=True, evidence={"seconds": seconds},
                checker="test",
            )
        )  # fmt: skip
    (health,) = look_at_root(run.store, Objective()).runs
    assert health.recovery.drills_s == (1.5, 2.5)


def test_saves_that_became_no_version_are_counted_with_the_last_reason(run):
    run.start()
    run.commit(10)
    for step, count in ((20, 2), (30, 1)):
        run.told = {"dropped_saves": str(count), "dropped_reason": f"full before {step}"}
        run.commit(step)
    run.told = {}
    run.commit(40)
    (health,) = look_at_root(run.store, Objective()).runs
    assert (health.rhythm.dropped, health.rhythm.dropped_reason) == (3, "full before 30")
    assert health.to_json()["saves"]["dropped"] == 3


def test_all_runs_are_counted_in_one_sentence(run):
    run.start()
    run.commit(10)
    run.end()
    for name, outcome in (("bad", "failed"), ("worse", "crashed")):
        other = MadeUpRun(store=run.store, name=name)
        other.start()
        if name == "bad":
            other.commit(10)
        other.end(outcome)
    report = look_at_root(run.store, Objective(budget_bytes=1))
    assert report.summary == (
        "1 of 3 runs could not come back, 1 of 3 runs would come back, but not as promised, the storage budget is spent"
    )
    assert all(health.action for health in report.missed)


def test_an_empty_root_is_ready():
    report = look_at_root(MemoryStore(), Objective())
    assert (report.verdict, report.reason) == ("ready", "there is no run yet")
