import math
import subprocess
import sys

import pytest

from ray_workers.report_builder import build_report
from ray_workers.store import keys
from ray_workers.store.attempts import start_attempt, start_successor
from ray_workers.store.bodies import RolledBack
from ray_workers.store.catalog import VersionCatalog
from ray_workers.store.errors import RunNotFoundError
from ray_workers.store.manifest import Curve
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def run(tmp_path):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    return made


def report_of(run, **options):
    return build_report(run.store, run.name, **options)


def steps(report):
    return [step for step, _, _ in report.curve]


def test_a_run_without_versions_has_a_report(run):
    report = report_of(run)
    assert (report.run, report.run_id, report.url) == (
        "digits", run.log.state.run_id, run.store.url,
    )  # fmt: skip
    assert (report.versions, report.curve, report.damaged_slots) == ((), (), ())
    assert (report.progress.step, report.progress.epoch, report.progress.epochs_wanted) == (
        0,
        0,
        None,
    )
    (attempt,) = report.attempts
    assert (attempt.number, attempt.outcome, attempt.resumed_from) == (1, None, None)
    assert report.status == "running"


def test_no_run_is_an_error(run):
    with pytest.raises(RunNotFoundError):
        build_report(run.store, "other")


def test_a_version_is_told_from_manifest_and_log(run):
    run.commit(10, epoch=1, metrics={"loss": 0.5}, config={"lr": 0.2})
    run.commit(20)
    run.judge(1, reason="jumped")
    run.tag("prod", 2)
    first, second = report_of(run).versions
    assert (first.number, first.step, first.epoch, first.metrics, first.config) == (
        1, 10, 1, {"loss": 0.5}, {"lr": 0.2},
    )  # fmt: skip
    assert (first.rung, first.reason, first.parent, first.attempt) == (
        "quarantined",
        "jumped",
        None,
        1,
    )
    assert (second.rung, second.reason, second.parent, second.tags) == (
        "committed",
        None,
        "1",
        ("prod",),
    )
    assert first.duration_s == 0.75
    assert first.throughput_bytes_s == first.bytes / 0.5
    assert first.digest == run.version(1).manifest
    assert (first.world_size, first.fence, first.status) == (2, run.fence, "live")


def test_attempts_say_what_they_resumed_and_why_not_something_newer(run):
    run.commit(10)
    run.commit(20)
    run.judge(2, reason="NaN in weight")
    run.end("failed", "boom")
    run.start(1, passed_over={2: "quarantined: NaN in weight"})
    first, second = report_of(run).attempts
    assert (first.outcome, first.reason, first.ended_at is not None) == ("failed", "boom", True)
    assert (second.number, second.resumed_from, second.resume_step) == (2, "1", 10)
    assert second.passed_over == (("2", "quarantined: NaN in weight"),)
    assert (second.required, second.outcome, second.run_count) == ("committed", None, 2)
    assert second.steps_lost == 10
    assert second.seconds_lost is not None
    assert second.seconds_lost > 0
    assert second.host


def test_an_attempt_that_told_no_end_is_lost_once_another_began(run):
    run.start()
    first, second = report_of(run).attempts
    assert first.outcome == "lost"
    assert "took over" in (first.reason or "")
    assert second.outcome is None


def test_a_completed_attempt_gives_no_reason(run):
    run.commit(10)
    run.end("completed", "all epochs done")
    (attempt,) = report_of(run).attempts
    assert (attempt.outcome, attempt.reason) == ("completed", None)


def test_an_actor_started_again_goes_on_where_it_was(run):
    run.commit(10)
    run.end("failed", "boom")
    run.start(1)
    run.restart_actor()
    run.commit(20)
    run.restart_actor()
    rows = report_of(run).attempts
    assert [row.restarted for row in rows] == [False, False, True, True]
    assert [row.resumed_from for row in rows] == [None, "1", "1", "2"]
    assert [row.resume_step for row in rows] == [None, 10, 10, 20]
    assert [row.resumed for row in rows] == [False, True, False, False]
    assert not any(row.undecided for row in rows)
    assert [(row.steps_lost, row.seconds_lost) for row in rows[2:]] == [(0, 0.0)] * 2


def test_an_actor_started_again_before_there_was_a_version_or_in_a_fork(run):
    run.restart_actor()
    row = report_of(run).attempts[1]
    assert (row.restarted, row.resumed_from, row.undecided) == (True, None, False)
    run.commit(10)
    child = run.fork(1, "child")
    child.restart_actor()
    row = report_of(child).attempts[1]
    assert (row.restarted, row.resumed_from, row.resume_step) == (True, "digits@1", 10)


def test_what_was_chosen_after_training_had_stopped_is_not_guessed(run):
    run.commit(10)
    run.end("interrupted", "resize (2 to 3 workers)")
    start_successor(run.log, run.fence)
    row = report_of(run).attempts[1]
    assert (row.incarnation, row.restarted, row.resumed_from, row.undecided) == (
        1,
        False,
        None,
        True,
    )


def test_what_damage_hides_before_an_actor_was_started_again_is_not_guessed(run, tmp_path):
    run.commit(10)
    slot = run.log.refresh().slot
    run.restart_actor()
    flip_byte(tmp_path, keys.log_key("digits", slot))
    row = report_of(run).attempts[1]
    assert (row.restarted, row.resumed_from, row.undecided) == (False, None, True)


def test_a_damaged_manifest_cuts_nothing_where_the_actor_was_started_again(run, tmp_path):
    run.commit(10)
    run.restart_actor()
    run.commit(20)
    flip_byte(tmp_path, run.manifest_key(2))
    run.commit(30, curve={"loss": Curve(steps=(30,), values=(0.5,))})
    assert steps(report_of(run)) == [*range(1, 11), 30]


def test_the_curve_goes_over_attempts_without_overlap_or_gap(run):
    run.commit(10)
    run.commit(20)
    run.start(1)
    run.commit(15)
    run.commit(30)
    report = report_of(run)
    assert steps(report) == list(range(1, 31))
    assert [attempt for _, _, attempt in report.curve] == [1] * 10 + [2] * 20
    assert report.curve[9] == (10, 0.1, 1)
    assert (report.progress.step, report.progress.epochs_wanted) == (30, 3)


def test_every_other_metric_has_its_series_over_attempts_without_overlap_or_gap(run):
    def commit(step):
        done = range(1, step + 1)
        curve = Curve(steps=tuple(done), values=tuple(at / 100 for at in done))
        run.commit(step, curve={"accuracy": curve}, metrics={"accuracy": 1.0, "lr": 0.1})

    commit(10)
    commit(20)
    run.start(1)
    commit(30)
    report = report_of(run)
    assert report.curve == ()
    assert [step for step, _, _ in report.series["accuracy"]] == list(range(1, 31))
    assert [attempt for _, _, attempt in report.series["accuracy"]] == [1] * 10 + [2] * 20
    assert report.series["accuracy"][9] == (10, 0.1, 1)
    assert report.series["lr"] == ((10, 0.1, 1), (30, 0.1, 2))
    assert report.series.keys() == {"accuracy", "lr"}


def test_while_nothing_new_is_committed_the_curve_ends_where_the_attempt_resumed(run):
    run.commit(10)
    run.commit(20)
    run.start(1)
    report = report_of(run)
    assert steps(report) == list(range(1, 11))
    assert report.progress.step == 10


def test_after_a_fresh_start_the_old_curve_is_gone(run):
    run.commit(10)
    run.append(RolledBack(to=None))
    run.start()
    assert report_of(run).curve == ()
    run.commit(5)
    assert steps(report_of(run)) == [1, 2, 3, 4, 5]


def test_an_attempt_that_has_not_chosen_yet_changes_no_curve(run):
    run.commit(10)
    start_attempt(run.log, flow_run_id="flow-9", run_count=1)
    report = report_of(run)
    assert steps(report) == list(range(1, 11))
    assert report.attempts[1].steps_lost is None


def test_series_that_begin_late_are_completed_from_older_versions(run):
    run.commit(10)
    run.commit(20, curve={"loss": Curve(steps=(15, 20), values=(7.0, 8.0))})
    report = report_of(run)
    assert steps(report) == [*range(1, 11), 15, 20]
    assert report.curve[-2:] == ((15, 7.0, 1), (20, 8.0, 1))


def test_without_series_the_losses_of_the_versions_are_the_curve(run):
    run.commit(10, curve={}, metrics={"loss": 0.5})
    run.commit(20, curve={}, metrics={})
    run.commit(30, curve={}, metrics={"loss": math.inf})
    assert report_of(run).curve == ((10, 0.5, 1), (30, math.inf, 1))


def test_a_damaged_manifest_cuts_nothing_and_is_told(run, tmp_path):
    run.commit(10)
    run.start(1)
    run.commit(20)
    run.start(2)
    run.commit(30)
    flip_byte(tmp_path, run.manifest_key(2))
    report = report_of(run)
    assert [(step, attempt) for step, _, attempt in report.curve[::10]] == [
        (1, 1),
        (11, 2),
        (21, 3),
    ]
    assert steps(report) == list(range(1, 31))
    row = report.versions[1]
    assert (row.step, row.metrics, row.world_size, row.duration_s) == (20, {}, 0, None)
    assert "digest" in (row.reason or "")


@pytest.mark.parametrize("resumed", [False, True])
def test_the_newest_manifest_may_be_the_damaged_one(run, tmp_path, resumed):
    run.commit(10, epoch=1)
    if resumed:
        run.start(1)
    run.commit(20, epoch=2)
    flip_byte(tmp_path, run.manifest_key(2))
    report = report_of(run)
    assert steps(report) == list(range(1, 11))
    assert (report.progress.step, report.progress.epoch) == (20, 1)


def test_a_fork_begins_where_it_left_the_other_run(run):
    run.commit(10)
    child = run.fork(1, "child")
    assert report_of(child).progress.step == 0
    child.commit(15)
    report = report_of(child)
    assert report.forked_from == "digits@1"
    assert steps(report) == [11, 12, 13, 14, 15]
    assert (report.attempts[0].resumed_from, report.attempts[0].resume_step) == ("digits@1", 10)
    assert report.versions[0].parent == "digits@1"


def test_a_fork_outlives_the_run_that_it_left(run, tmp_path):
    run.commit(10)
    child = run.fork(1, "child")
    child.commit(15)
    for path in (tmp_path / "runs/digits/log").iterdir():
        path.unlink()
    report = report_of(child)
    assert report.attempts[0].resume_step is None
    assert steps(report) == list(range(1, 16))


def test_damaged_slots_are_told_and_an_attempt_without_start_record_stays_in_the_table(
    run, tmp_path
):
    run.commit(10)
    flip_byte(tmp_path, keys.log_key("digits", 2))
    assert steps(report_of(run)) == list(range(1, 11))
    run = MadeUpRun(store=run.store)
    run.start(1)
    run.commit(20)
    report = report_of(run)
    assert report.damaged_slots == (2,)
    assert [(a.number, a.flow_run_id) for a in report.attempts] == [(1, "unknown"), (2, "flow-1")]
    assert [v.attempt for v in report.versions] == [1, 2]
    assert report.attempts[1].steps_lost is None
    assert steps(report)[-1] == 20


def test_a_given_catalogue_spares_reading_manifests_again(run):
    run.commit(10)
    catalog = VersionCatalog(run.store, "digits")
    before = report_of(run, catalog=catalog)
    run.store.delete(run.manifest_key(1))
    assert report_of(run, catalog=catalog).versions == before.versions
    assert report_of(run).versions != before.versions


def test_retention_is_passed_through(run):
    assert report_of(run, retention=("keep version 1",)).retention == ("keep version 1",)


def test_building_a_report_loads_no_tensor_library():
    code = "import sys, ray_workers.report_builder; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "prefect", "pandas", "pyarrow"} & set(done.stdout.split())
