"""What may be appended on which state; the traces of the protocol show what would break otherwise."""

from __future__ import annotations

from ray_workers.store.bodies import Repaired, RunDeleted, Swept, Tagged
from tests.support.plain_log import append, commit, damage, new_run, open_log, refusal


def test_a_deleted_run_can_be_swept():
    _, log = new_run()
    version = commit(log, step=1)
    append(log, RunDeleted())
    assert refusal(log, Swept(versions=(version,))) is None


def test_a_tag_on_a_version_whose_commit_was_damaged_can_be_moved():
    store, w1 = new_run()
    first, second = (commit(w1, step=step) for step in (1, 2))
    append(w1, Tagged(name="best", version=second, expects=None))
    damage(store, 4)
    later = open_log(store)
    moves = [Tagged(name="best", version=first, expects=at) for at in (second, None)]
    assert None in [refusal(later, move) for move in moves]


def test_a_tag_whose_version_was_lost_can_be_removed():
    store, w1 = new_run()
    version = commit(w1, step=1)
    append(w1, Tagged(name="best", version=version, expects=None))
    damage(store, 3)
    assert refusal(open_log(store), Tagged(name="best", version=None, expects=version)) is None


def test_a_deleted_run_with_a_damaged_slot_can_be_repaired():
    store, log = new_run()
    commit(log, step=1)
    append(log, RunDeleted())
    damage(store, 3)
    assert refusal(open_log(store), Repaired(slot=3)) is None
