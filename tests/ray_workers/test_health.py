import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ray_workers.health import assess_run
from ray_workers.health_facts import look_at_root
from ray_workers.health_values import Objective, RunFacts, percentile
from ray_workers.policies.retention import RetentionPolicy
from ray_workers.store import keys
from ray_workers.store.memory import MemoryStore
from tests.support.factories import MadeUpRun

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
RUNNING = RunFacts(status="running", world_size=4, staging_s=(2.0,))


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


@pytest.mark.parametrize(("outcome", "verdict"), [("failed", "warning"), ("completed", "ready")])
def test_a_run_that_stopped_and_is_not_resumed_is_a_warning(run, outcome, verdict):
    run.start()
    run.commit(10)
    run.end(outcome)
    facts = RunFacts(status=outcome)
    health = assess_run(aged(run, 9000, (8000,), ended=7000), facts, Objective(), NOW)
    assert (health.verdict, health.at_risk) == (verdict, None)


def test_recovery_is_measured_by_drills_and_else_by_resumes(run):
    run.start()
    run.commit(10)
    run.end("failed")
    run.start(1)
    run.commit(20)
    state = aged(run, 500, (380,))
    health = assess_run(state, RUNNING, Objective(), NOW)
    assert (health.recovery.resumes_s, health.recovery.p95_s) == ((120.0,), 120.0)
    drilled = replace(RUNNING, drills_s=(1.0, 2.0, 400.0))
    health = assess_run(state, drilled, Objective(), NOW)
    assert (health.recovery.median_s, health.recovery.p95_s) == (2.0, 400.0)
    assert (health.verdict, health.reason[:22]) == ("warning", "recovery takes 6.7 min")


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
    run.commit(10)
    assert assess_run(aged(run, 100, (90,)), RUNNING, Objective(), NOW).rhythm.optimal_s is None
    run.end("failed")
    health = assess_run(aged(run, 900, (800,), ended=700), RUNNING, Objective(), NOW)
    assert health.rhythm.optimal_s == pytest.approx(math.sqrt(2 * 2.0 * 900))


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
