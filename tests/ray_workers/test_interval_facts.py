"""What a run's log says of failures and saves, and what an attempt is started with."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ray_workers import interval_facts
from ray_workers.config import Saving
from ray_workers.interval_account import account_of
from ray_workers.interval_controller import IntervalController
from ray_workers.interval_facts import history_of, plan_interval, read_history
from ray_workers.policies.failure_rate import PRIOR, Evidence
from ray_workers.policies.failure_words import placed
from ray_workers.store.bodies import Condemn, Retire, Verdict, VersionName
from ray_workers.store.run_state import AttemptState, RunState, VersionState
from tests.support.factories import MadeUpRun, folder_store

FAILED = "Training of run 'r' failed on rank 0: {}"


def at(hour: float) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)).isoformat()


def seconds(hour: float) -> float:
    return datetime.fromisoformat(at(hour)).timestamp()


def attempt(
    fence: int, begin: float, end: float | None, outcome: str | None, reason: str = "", **more: int
):
    return AttemptState(
        fence=fence, flow_run_id="f", run_count=more.get("run_count", fence), incarnation=more.get("incarnation", 0),
        by={}, at=at(begin), outcome=outcome, reason=reason, ended_at=None if end is None else at(end),
    )  # fmt: skip


def history(
    *attempts: AttemptState,
    open_fence: int | None = None,
    now: float = 100.0,
    kept: float | None = None,
):
    """`kept`: at that hour the first attempt committed the version that all later ones resumed from."""
    state = RunState(run="r", open_fence=open_fence, attempts={a.fence: a for a in attempts})
    if kept is not None:
        name = VersionName(number=1, manifest="m")
        state.versions[1] = VersionState(
            number=1,
            manifest="m",
            fence=attempts[0].fence,
            slot=2,
            step=1,
            bytes=1,
            at=at(kept),
            base=None,
        )
        later = {a.fence: replace(a, resume=name, resume_at=a.at) for a in attempts[1:]}
        state.attempts.update(later)
    return history_of(state, [], seconds(now))


def test_hours_and_failures_are_counted_by_cause() -> None:
    found = history(
        attempt(1, 0, 10, "failed", FAILED.format("ActorDiedError: gone")),
        attempt(2, 10, 15, "failed", FAILED.format("ValueError: mine")),
        attempt(3, 15, 20, "interrupted", "Ctrl-C"),
        attempt(4, 90, None, None),
        open_fence=4,
    )
    assert found.causes == {"infrastructure": 1, "user": 1, "asked": 1, "none": 1}
    assert [item.failures for item in found.evidence] == [1, 0, 0, 0]
    assert found.worker_hours == pytest.approx(30)
    assert [item.age_hours for item in found.evidence] == pytest.approx([90, 85, 80, 0])


def test_a_state_that_does_not_fit_leaves_the_rate_alone() -> None:
    refused = placed("'w' is missing.", rank=0, node="h", error="StateMismatchError")
    found = history(attempt(1, 0, 0.02, "failed", refused), now=0.02)
    assert found.causes == {"user": 1}
    assert PRIOR.after(found.evidence).mean == pytest.approx(PRIOR.mean, rel=0.01)


def test_a_run_that_another_flow_run_took_over_was_ended_by_that() -> None:
    one, two = attempt(1, 0, None, None), attempt(5, 2, 9, "completed")
    other = replace(two, flow_run_id="g", by={"takeover": True})
    assert history(one, other).causes == {"asked": 1, "none": 1}


def test_a_run_whose_process_died_and_that_was_started_anew_by_hand_failed() -> None:
    one, two = attempt(1, 0, None, None), attempt(5, 2, 9, "completed")
    again = replace(two, flow_run_id="g")
    assert history(one, again).causes == {"infrastructure": 1, "none": 1}
    assert history(one, two).causes == {"infrastructure": 1, "none": 1}


def test_an_actor_that_was_started_again_is_no_failure_of_training() -> None:
    found = history(
        attempt(1, 0, None, None, run_count=1),
        attempt(5, 2, 9, "completed", run_count=1, incarnation=1),
    )
    assert found.causes == {"none": 2}


def test_workers_that_were_lost_are_a_failure_even_if_others_went_on_in_the_same_attempt() -> None:
    found = history(
        attempt(1, 0, 2, "failed", FAILED.format("ActorDiedError: gone"), run_count=1),
        attempt(5, 2, 4, "interrupted", "resize (2 to 3 workers): …", run_count=1, incarnation=1),
        attempt(9, 4, 9, "completed", run_count=1, incarnation=2),
    )
    assert found.causes == {"infrastructure": 1, "asked": 1, "none": 1}


def test_a_made_up_run_gives_costs_and_an_account(tmp_path: Path) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    for step in (10, 20, 30):
        run.commit(step)
    found = read_history(run.store, "digits")
    assert (found.workers, found.costs_s, found.persists_s) == (2, (0.25,) * 3, (0.5,) * 3)
    account = account_of(found)
    assert account.decision is not None
    assert account.decision.bound_by == "least waste"
    assert account.range_s is not None
    assert account.range_s[0] <= account.decision.seconds <= account.range_s[1]
    plain = account.to_json()
    assert plain["save_cost_s"] == {"median": 0.25, "low": 0.25, "high": 0.25, "count": 3}
    assert plain["measured"]["overhead"] > 0
    assert "min, by least waste" in dict(account.lines())["interval"]


def test_before_a_first_version_it_says_that_nothing_is_known(tmp_path: Path) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    account = account_of(read_history(run.store, "digits"))
    assert account.decision is None
    assert dict(account.lines())["interval"] == "unknown until a first save was measured"
    assert account.to_json()["interval_s"] is None


def test_the_plan_takes_history_failures_elsewhere_and_the_users_caps() -> None:
    found = history(attempt(1, 0, 10, "failed", FAILED.format("ActorDiedError: gone")), now=10.0)
    saving = Saving(max_interval_seconds=60, network_mb_per_second=2)
    elsewhere = [Evidence(failures=3, worker_hours=100)]
    plan = plan_interval(found, saving, 4, elsewhere)
    assert plan is not None
    assert (plan.workers, plan.caps.max_s, plan.caps.network_bytes_s) == (4, 60, 2e6)
    assert plan.rate == PRIOR.after([*found.evidence, *elsewhere], 14 * 24)
    assert (plan.cost_s, plan.persist_s) == (None, None)


def test_failures_of_other_runs_shorten_the_interval_and_are_told(tmp_path: Path) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10)
    found = read_history(run.store, "digits")
    alone = account_of(found)
    many = account_of(found, None, [Evidence(failures=50, worker_hours=100)])
    assert many.decision is not None
    assert alone.decision is not None
    assert many.decision.seconds < alone.decision.seconds
    told = "50 failures in 100 worker-hours, by Prefect"
    assert (dict(many.lines())["other runs"], "other runs" in dict(alone.lines())) == (told, False)
    assert many.to_json()["elsewhere"] == {"failures": 50, "worker_hours": 100}


def test_fixed_thresholds_need_no_plan_and_a_new_run_starts_from_the_prior() -> None:
    assert plan_interval(None, Saving(interval="fixed"), 2) is None
    plan = plan_interval(None, Saving(), 2)
    assert plan is not None
    assert plan.rate == PRIOR


GONE = FAILED.format("ActorDiedError: gone")


def test_what_a_failure_cost_is_a_share_of_the_time_that_went_by() -> None:
    found = history(
        attempt(1, 0, 100, "failed", GONE),
        attempt(2, 101, None, None),
        kept=50,
        open_fence=2,
        now=101,
    )
    assert (found.lost_s / 3600, found.watched_s / 3600) == pytest.approx((51, 101))
    assert account_of(found).loss == pytest.approx(51 / 101)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("interrupted", "cancelled"),
        ("interrupted", "Ctrl-C"),
        ("failed", FAILED.format("ValueError: x")),
    ],
)
def test_a_weekend_after_an_end_that_no_machine_brought_is_no_loss(
    outcome: str, reason: str
) -> None:
    found = history(
        attempt(1, 0, 10, outcome, reason),
        attempt(2, 70, None, None),
        kept=10,
        open_fence=2,
        now=80,
    )
    assert (found.lost_s, found.watched_s / 3600) == (0, pytest.approx(20))
    assert account_of(found).loss == 0


def test_a_death_without_a_record_cost_the_time_until_the_next_attempt() -> None:
    found = history(
        attempt(1, 0, None, None, run_count=1), attempt(2, 60, None, None, run_count=2), kept=50, open_fence=2, now=100
    )  # fmt: skip
    assert (found.lost_s / 3600, found.watched_s / 3600) == pytest.approx((10, 100))


def test_the_caps_count_what_is_sent_and_not_what_stays(tmp_path: Path) -> None:
    run = MadeUpRun(store=folder_store(tmp_path), ranks=40)
    run.start()
    run.commit(10)
    for number in range(1, 5):
        run.commit(10 + number, base=number)
    found = read_history(run.store, "digits")
    whole, new = found.bytes, sorted(found.bytes_new)[2]
    assert len(found.bytes_new) == 5
    assert new < whole
    saving = Saving(full_every=4, storage_gb_per_day=1e-6, max_interval_seconds=1e9)
    decided = account_of(found, saving).decision
    assert decided is not None
    assert decided.bound_by == "storage"
    assert decided.seconds == pytest.approx(86_400 * (new + (whole - new) // 4) / 1e3)
    plan = plan_interval(found, saving, 40)
    assert plan is not None
    assert (plan.bytes, plan.bytes_new, plan.full_every) == (whole, found.bytes_new, 4)
    assert IntervalController(plan).decide().seconds == decided.seconds


def test_training_page_and_command_take_the_last_five(tmp_path: Path) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10)
    found = read_history(run.store, "digits")
    slower = replace(
        found, costs_s=(9.0,) * 10 + (1.0,) * 5, persists_s=(9.0,) * 10 + (2.0,) * 5, restarts_s=(9.0,) * 10 + (3.0,) * 5
    )  # fmt: skip
    account, plan = account_of(slower), plan_interval(slower, Saving(), 2)
    assert plan is not None
    assert account.cost is not None
    assert account.persist is not None
    assert account.restart is not None
    shown = (account.cost.median, account.persist.median, account.restart.median)
    assert shown == (plan.cost_s, plan.persist_s, plan.restore_s) == (1, 2, 3)


def test_after_a_change_to_fixed_thresholds_alone_are_in_force(tmp_path: Path) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.timed["interval_s"] = 60.0
    run.commit(10)
    assert dict(account_of(read_history(run.store, "digits")).lines())["in force"] == "60 s"
    del run.timed["interval_s"]
    run.commit(20)
    told = dict(account_of(read_history(run.store, "digits")).lines())
    assert told["in force"] == "thresholds alone"


def test_it_says_when_the_limits_are_not_the_runs_own(tmp_path: Path) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    found = read_history(run.store, "digits")
    assert "defaults" in dict(account_of(found).lines())["limits"]
    assert "limits" not in dict(account_of(found, Saving()).lines())


def test_an_interval_that_cannot_be_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="must not be above"):
        Saving(min_interval_seconds=100, max_interval_seconds=10)


class Calendar:
    """The hour that records are written at, and that the history is read at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hour = 0.0
        monkeypatch.setattr("ray_workers.store.log.utc_now", lambda: at(self.hour))
        monkeypatch.setattr(interval_facts, "epoch_seconds", lambda: seconds(self.hour))


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    return Calendar(monkeypatch)


def on_two_then_on_sixteen(tmp_path: Path, calendar: Calendar) -> MadeUpRun:
    """An attempt of a hundred hours on 2 workers, and one on 16 that made the newest 20 versions."""
    run = MadeUpRun(store=folder_store(tmp_path), ranks=2)
    run.start()
    run.commit(10)
    run.commit(20)
    calendar.hour = 100.0
    run.end()
    run.ranks = 16
    run.start()
    for step in range(21, 41):
        run.commit(step)
    calendar.hour = 101.0
    return run


def test_the_hours_of_an_older_attempt_are_of_the_workers_that_it_had(
    tmp_path: Path, calendar: Calendar
) -> None:
    run = on_two_then_on_sixteen(tmp_path, calendar)
    found = read_history(run.store, "digits")
    assert [item.worker_hours for item in found.evidence] == [200, 16]
    assert (found.workers, len(found.costs_s)) == (16, 20)


def test_the_older_of_two_versions_tells_as_much_and_an_attempt_long_ago_is_not_asked(
    tmp_path: Path, calendar: Calendar
) -> None:
    run = on_two_then_on_sixteen(tmp_path, calendar)
    run.append(Retire(versions=(run.version(2).name,)))
    run.append(Condemn(versions=(run.version(2).name,)))
    assert read_history(run.store, "digits").evidence[0].worker_hours == 200
    run.store.delete(run.manifest_key(1))
    assert read_history(run.store, "digits").evidence[0].worker_hours == 1600
    calendar.hour = 3000.0
    assert read_history(run.store, "digits").evidence[0].worker_hours == 1600


def test_what_saves_cost_is_what_training_measured_and_not_its_standing_still_alone(
    tmp_path: Path, calendar: Calendar
) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    for hour in range(1, 6):
        calendar.hour = hour
        run.timed = {"last_save_cost_s": 36.0} if hour > 1 else {}
        run.commit(10 * hour)
    found = read_history(run.store, "digits")
    assert found.overhead == pytest.approx(0.01)
    assert found.costs_s == (0.25, 36.0, 36.0, 36.0, 36.0)


def test_of_a_run_that_never_restarted_its_drills_tell_how_long_a_restore_takes(
    tmp_path: Path,
) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10)
    name = run.version(1).name
    for seconds in (30.0, 50.0):
        run.append(
            Verdict(
                versions=(name,), check="restorable", passed=True, reason=None, checker="drill",
                evidence={"seconds": seconds},
            )
        )  # fmt: skip
    found = read_history(run.store, "digits")
    assert found.restarts_s == (30.0, 50.0)
    account = account_of(found)
    assert account.restart is not None
    assert account.restart.median == 40.0
    run.end("failed")
    run.timed = {"restore_s": 2.0, "start_s": 3.0}
    run.start(1)
    run.commit(20)
    assert read_history(run.store, "digits").restarts_s == (5.0,)


def test_versions_that_thinning_left_far_apart_say_nothing_of_what_saves_cost(
    tmp_path: Path, calendar: Calendar
) -> None:
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    for hour in range(1, 6):
        calendar.hour = hour
        run.commit(10 * hour)
    whole = read_history(run.store, "digits").overhead
    assert whole == pytest.approx(0.25 / 3600)
    for number in (2, 3):
        run.store.delete(run.manifest_key(number))
    assert read_history(run.store, "digits").overhead == pytest.approx(whole)
    run.store.delete(run.manifest_key(5))
    assert read_history(run.store, "digits").overhead is None
