"""Retention and garbage collection as tasks: the plan is an artifact before anything goes, and says what went wrong."""

from __future__ import annotations

import logging

import pytest

import flows.maintain
from ray_workers.config import Retention
from ray_workers.store.attempts import read_run
from ray_workers.store.keys import log_key
from tasks import maintenance
from tasks.maintenance import carry_out, plan_page, plan_runs, publish_plan
from tests.support.factories import MadeUpRun, flip_byte, folder_store

KEEP_TWO = Retention(keep_last=2)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Five sound versions of an attempt that has ended."""
    monkeypatch.setattr(maintenance, "get_run_logger", lambda: logging.getLogger("test"))
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for step in range(10, 60, 10):
        made.commit(step)
    made.judge(1, 2, 3, 4, 5)
    made.end()
    return made


@pytest.fixture
def published(monkeypatch):
    """Every artifact: its key, its page, its description."""
    shown: list[tuple[str, str, str]] = []
    monkeypatch.setattr(
        maintenance, "create_markdown_artifact", lambda page, *, key, description: shown.append((key, page, description))
    )  # fmt: skip
    return shown


def statuses(run):
    return [v.status for v in read_run(run.store, run.name).versions.values()]


def test_the_plan_is_an_artifact_and_changes_nothing(run, published, tmp_path):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    plans = plan_runs.fn(str(tmp_path), None, KEEP_TWO, "0s")
    publish_plan.fn(plans)
    [(key, page, description)] = published
    assert key == "pawl-maintenance"
    assert description == "retire 3 versions, condemn 0, delete 0.00 MB"
    assert "## digits" in page
    assert "- retire version 1: no rule keeps it" in page
    assert "- keep version 5: newest version" in page
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_was_retired_is_announced_and_goes_the_next_time(run, published, tmp_path):
    place = str(tmp_path)
    assert not carry_out.fn(place, plan_runs.fn(place, None, KEEP_TWO, "1h")).failed
    assert statuses(run) == ["retired"] * 3 + ["live"] * 2
    plans = plan_runs.fn(place, ["digits"], KEEP_TWO, "0s")
    assert "condemn version 3: retired, and its grace is over" in plan_page(plans)
    done = carry_out.fn(place, plans)
    assert (done.failed, statuses(run)) == (False, ["swept"] * 3 + ["live"] * 2)
    assert done.message.startswith("1 runs, 0.01 MB deleted")


def test_without_a_grace_the_plan_says_that_what_is_retired_is_gone(run, tmp_path):
    place = str(tmp_path)
    warning = "what is retired now is deleted at once"
    assert warning not in plan_page(plan_runs.fn(place, None, KEEP_TWO, "1h"))
    plans = plan_runs.fn(place, None, KEEP_TWO, "0s")
    assert warning in plan_page(plans)
    carry_out.fn(place, plans)
    assert statuses(run) == ["swept"] * 3 + ["live"] * 2


def test_a_version_that_was_tagged_after_the_plan_stays(run, tmp_path):
    place = str(tmp_path)
    plans = plan_runs.fn(place, None, KEEP_TWO, "0s")
    run.tag("release", 1)
    done = carry_out.fn(place, plans)
    assert done.failed
    assert "digits: " in done.message
    assert statuses(run) == ["live"] * 5


def test_a_run_whose_log_is_damaged_is_named_and_the_others_are_planned(run, tmp_path):
    other = MadeUpRun(store=run.store, name="other")
    other.start()
    other.commit(10)
    other.end()
    flip_byte(tmp_path, log_key("other", 4))
    done = carry_out.fn(str(tmp_path), plan_runs.fn(str(tmp_path), None, KEEP_TWO, "1h"))
    assert done.failed
    assert "other: nothing was deleted" in done.message
    assert statuses(run)[:3] == ["retired"] * 3


class Nothing:
    headline, failed, message = "nothing", False, "done"


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_flow_publishes_the_plan_before_anything_is_done(monkeypatch, dry_run):
    order: list[str] = []

    def noting(name):
        def note(*_):
            order.append(name)
            return Nothing()

        return note

    for name in ("plan_runs", "publish_plan", "carry_out"):
        monkeypatch.setattr(flows.maintain, name, noting(name))
    state = flows.maintain.maintain.fn(dry_run=dry_run)
    assert state.is_completed()
    assert order == ["plan_runs", "publish_plan", *([] if dry_run else ["carry_out"])]
