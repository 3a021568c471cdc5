"""The versions that the present state comes from, over retries, rollbacks, forks and damaged manifests."""

from __future__ import annotations

import pytest

from ray_workers.store.bodies import RolledBack
from ray_workers.store.present_line import present_line
from tests.support.factories import MadeUpRun, folder_store


@pytest.fixture
def run(tmp_path):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    made.commit(10)
    made.commit(20)
    return made


def line(run, parents=None):
    return present_line(run.log.refresh(), {} if parents is None else parents)


def test_what_a_retry_did_again_replaces_what_it_left(run):
    assert line(run) == [2, 1]
    run.start(1)
    assert line(run) == [1]
    run.commit(15)
    run.commit(30)
    assert line(run) == [4, 3, 1]


def test_manifests_are_believed_before_the_log(run):
    assert line(run, {2: None}) == [2]
    assert line(run, {1: 2, 2: 1}) == [2, 1]  # no circle, whatever they say
    assert line(run, {2: 7}) == [2]


def test_after_a_fresh_start_the_old_line_is_gone(run):
    run.append(RolledBack(to=None))
    run.start()
    assert line(run) == []
    run.commit(5)
    assert line(run) == [3]
