"""Where a person said that a training begins, the page and `pawl explain` say so, and do not call it a choice."""

from __future__ import annotations

import pytest

from ray_workers.explaining import interruptions
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.report_builder import build_report
from ray_workers.resume import ResumeSpec, choose
from ray_workers.store.attempts import RESUME, this_process
from ray_workers.store.log import RunLog
from tasks import lineage_page
from tests.support.applicants import open_as
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def run(tmp_path):
    """Three sound versions; the attempt is over."""
    made = MadeUpRun(store=folder_store(tmp_path), ranks=1)
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
    made.judge(1, 2, 3)
    made.end()
    return made


def begin(run, resume, *, flow="second", count=1):
    """As a flow run that is told `resume` begins; what the page and `pawl explain` say of it."""
    by = this_process() | ({} if resume == "auto" else {RESUME: ResumeSpec.parse(resume).text})
    told = {"resume": resume, "by": by, "count": count}
    _, run.fence = open_as(run.store, flow, run=run.name, **told)
    log = RunLog(run.store, run.name, by=by)
    log.refresh()
    choose(run.store, log, run.fence, required="verified", policy=SoundnessPolicy())
    report = build_report(run.store, run.name)
    return str(lineage_page._resumed(report)), interruptions(report)[-1].why


def test_a_fresh_start_that_was_asked_for(run):
    page, why = begin(run, "never")
    assert "started from nothing: so it was asked for (resume: never)" in page
    assert why == "as it was asked (resume: never)"


def test_a_version_that_was_asked_for_is_not_called_the_newest(run):
    page, why = begin(run, "digits@1")
    assert "so it was asked for (resume: digits@1). What was newer is set aside" in page
    assert "the newest version" not in page
    assert why == "as it was asked (resume: digits@1)"


def test_a_later_try_of_the_same_flow_run_chose_by_itself(run):
    begin(run, "never")
    run.log.refresh()
    run.series = []
    run.commit(5)
    page, why = begin(run, "never", count=2)
    assert "resumed from **version 4** (step 5)" in page
    assert "asked" not in page + why


def test_one_that_did_not_hold_up_was_not_begun_from(run, tmp_path):
    flip_byte(tmp_path, run.shard_keys(2)[0])
    page, why = begin(run, "digits@2")
    assert "resumed from **version 1**" in page
    assert "asked" not in page + why


def test_what_nobody_asked_for_is_a_choice(run):
    page, why = begin(run, "auto")
    assert "the newest version at rung verified or above" in page
    assert "asked" not in page + why
