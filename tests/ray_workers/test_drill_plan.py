import time
from dataclasses import replace

import pytest

from ray_workers.drill_plan import (
    followers,
    last_drilled,
    next_value,
    pick_version,
    shape_of,
    turn,
)
from ray_workers.environment import started_as
from ray_workers.store.errors import InvalidInputError, VersionNotFoundError
from ray_workers.store.memory import MemoryStore
from ray_workers.store.versions import load_manifest
from tests.support.factories import MadeUpRun


@pytest.fixture
def run():
    made = MadeUpRun(store=MemoryStore())
    made.start()
    for step in (10, 20, 30):
        made.commit(step)
        time.sleep(0.002)  # records tell their time in milliseconds, and drills go by it
    return made


def state(run):
    return run.log.refresh()


def manifest(run, number):
    return load_manifest(run.store, run.name, run.version(number))


def test_only_what_is_sound_is_picked_newest_or_oldest_undrilled(run):
    for pick in ("newest", "undrilled"):
        with pytest.raises(VersionNotFoundError, match="no sound version"):
            pick_version(state(run), pick)
    run.judge(1, 2)
    assert pick_version(state(run), "newest").number == 2
    assert pick_version(state(run), "undrilled").number == 1
    run.judge(1, check="restorable")
    assert pick_version(state(run), "undrilled").number == 2
    run.judge(2, reason="NaN")
    assert pick_version(state(run), "newest").number == 1
    with pytest.raises(VersionNotFoundError, match="that no drill has restored"):
        pick_version(state(run), "undrilled")


def test_a_version_that_was_only_restored_before_its_soundness_was_doubted_is_no_candidate(run):
    run.judge(3)
    run.judge(3, check="restorable")
    run.judge(3, reason="bad bytes", check="bytes")
    with pytest.raises(VersionNotFoundError):
        pick_version(state(run), "newest")


def test_runs_never_drilled_come_before_those_drilled_and_older_before_newer(run):
    assert last_drilled(run.store, state(run)) == ""
    run.judge(3, check="restorable")
    older = last_drilled(run.store, state(run))
    time.sleep(0.002)
    run.judge(1, check="restorable")
    newer = last_drilled(run.store, state(run))
    assert "" < older < newer
    run.judge(2)
    run.commit(40)
    assert last_drilled(run.store, state(run)) == newer


def test_a_drill_that_found_a_version_bad_was_a_drill_and_other_verdicts_are_none(run):
    run.judge(1, reason="NaN")
    assert last_drilled(run.store, state(run)) == ""
    run.judge(2, check="restorable", reason="the loop ended without a step")
    assert last_drilled(run.store, state(run)) != ""


def test_a_drill_far_back_in_the_log_is_found(run):
    run.judge(1, check="restorable")
    first = last_drilled(run.store, state(run))
    for _ in range(70):
        run.judge(2, check="bytes")
    assert last_drilled(run.store, state(run)) == first


def test_runs_take_turns_however_old_what_they_restored_is():
    """Three finished long ago, one still trains; one drill a night, each after the others."""
    store = MemoryStore()
    runs = {}
    for name in ("a", "b", "c", "live"):
        runs[name] = MadeUpRun(store=store, name=name)
        runs[name].start()
        runs[name].commit(10)
        if name != "live":
            runs[name].end()
        time.sleep(0.002)
    drilled = []
    for _ in range(8):
        states = [made.log.refresh() for made in runs.values()]
        first = min(states, key=lambda s: turn(store, s)).run
        drilled.append(first)
        runs["live"].commit(20 + len(drilled))
        time.sleep(0.002)
        newest = max(runs[first].log.refresh().versions)
        runs[first].judge(newest, check="restorable")
        time.sleep(0.002)
    assert drilled == ["live", "a", "b", "c"] * 2


def test_the_shape_is_what_the_version_says(run):
    saved = replace(manifest(run, 1), environment=started_as("mine:loop", 2.5, 1))
    shape = shape_of(saved, None)
    assert (shape.entrypoint, shape.workers) == ("mine:loop", 2)
    assert (shape.cpus_per_worker, shape.gpus_per_worker) == (2.5, 1.0)
    assert shape_of(saved, "other:loop").entrypoint == "other:loop"
    with pytest.raises(InvalidInputError, match="--entrypoint"):
        shape_of(manifest(run, 1), None)
    assert shape_of(manifest(run, 1), "mine:loop").cpus_per_worker == 1


def test_what_follows_a_version_is_of_its_attempt_or_resumed_from_it(run):
    run.start(1)
    run.commit(15)
    run.start(2)
    run.commit(25)
    numbers = {n: [v.number for v in followers(state(run), run.version(n))] for n in (1, 2, 3)}
    assert numbers == {1: [2, 3, 4], 2: [3, 5], 3: []}


def test_what_follows_a_version_may_be_committed_by_an_actor_started_again(run):
    run.restart_actor()
    run.commit(40)
    run.start(1)
    run.restart_actor()
    run.commit(50)
    numbers = {n: [v.number for v in followers(state(run), run.version(n))] for n in (1, 3)}
    assert numbers == {1: [2, 3, 5], 3: [4]}


def test_the_next_value_is_the_one_recorded_under_the_same_conditions(run):
    before, after = manifest(run, 1), manifest(run, 2)
    assert next_value(before, after, "loss") == 1.0 / 11
    assert next_value(before, after, "accuracy") is None
    assert next_value(after, before, "loss") is None
    for other in (
        replace(after, world_size=3),
        replace(after, config={"lr": 0.2}),
        replace(after, environment={"python": "3.12"}),
    ):
        assert next_value(before, other, "loss") is None
    same = replace(after, environment={"python": "3.11", "code": "later", "entrypoint": "a:b"})
    assert next_value(before, same, "loss") == 1.0 / 11
