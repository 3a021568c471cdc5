from dataclasses import replace

import pytest

from ray_workers.store.attempts import RAY_JOB, process_is_gone
from ray_workers.store.bodies import RolledBack, RunDeleted
from ray_workers.store.errors import StoreUnavailableError
from ray_workers.store.run_listing import list_runs, run_status
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def store(tmp_path):
    return folder_store(tmp_path)


def statuses(store):
    return {entry.run: entry.to_json()["status"] for entry in list_runs(store)}


def test_a_store_without_runs_lists_none(store):
    assert list_runs(store) == ()


def test_runs_are_listed_by_name_with_where_they_stand(store):
    run = MadeUpRun(store=store, name="b")
    run.start()
    run.commit(10)
    run.commit(20)
    run.judge(1)
    run.end()
    MadeUpRun(store=store, name="a")
    first, second = (entry.to_json() for entry in list_runs(store))
    assert (first["run"], first["status"], first["newest"], first["bytes"]) == ("a", "new", None, 0)
    assert second.pop("created_at") <= second.pop("updated_at")
    assert second == {
        "run": "b", "status": "completed", "problem": None, "run_id": run.log.state.run_id, "versions": 2,
        "newest": 2, "step": 20, "rung": "committed", "bytes": run.version(1).bytes + run.version(2).bytes,
        "attempts": 1, "forked_from": None, "damaged_slots": [],
    }  # fmt: skip


def test_a_fork_says_where_it_comes_from(store):
    run = MadeUpRun(store=store)
    run.start()
    run.commit(10)
    run.fork(1, "child")
    child, _ = (entry.to_json() for entry in list_runs(store))
    assert child["forked_from"] == "digits@1"


def test_the_status_tells_running_from_dead(store, monkeypatch):
    run = MadeUpRun(store=store)
    run.start()
    assert statuses(store) == {"digits": "running"}
    monkeypatch.setattr("ray_workers.store.run_listing.process_is_gone", lambda _: True)
    assert statuses(store) == {"digits": "died"}
    monkeypatch.setattr("ray_workers.store.run_listing.process_is_gone", process_is_gone)
    run.append(RolledBack(to=None))
    assert statuses(store) == {"digits": "lost"}
    run.start()
    run.end("failed", "boom")
    assert statuses(store) == {"digits": "failed"}
    run.append(RunDeleted())
    assert statuses(store) == {"digits": "deleted"}


def test_a_ray_job_outlives_the_process_that_started_it(store, monkeypatch):
    run = MadeUpRun(store=store)
    run.start()
    monkeypatch.setattr("ray_workers.store.run_listing.process_is_gone", lambda _: True)
    state = run.log.refresh()
    assert run_status(state) == "died"
    attempt = state.attempts[run.fence]
    state.attempts[run.fence] = replace(attempt, by={**attempt.by, RAY_JOB: True})
    assert run_status(state) == "running"


def test_the_newest_version_is_one_that_is_kept(store):
    run = MadeUpRun(store=store)
    run.start()
    run.commit(10)
    run.commit(20)
    run.append(RolledBack(to=run.version(1).name))
    (entry,) = list_runs(store)
    assert entry.newest is not None
    assert entry.newest.number == 1


def test_what_is_no_run_is_listed_and_hides_no_other(store):
    MadeUpRun(store=store)
    store.put("runs/Not-Legal/log/x", b"x")
    store.put("runs/empty/shards/x", b"x")
    rows = {entry.run: entry.to_json() for entry in list_runs(store)}
    assert rows["digits"]["status"] == "new"
    assert "not legal" in rows["Not-Legal"]["problem"]
    assert rows["empty"] == {"run": "empty", "status": "unreadable", "problem": "it has no log"}


def test_damaged_slots_are_shown(store, tmp_path):
    run = MadeUpRun(store=store)
    run.start()
    run.commit(10)
    flip_byte(tmp_path, "runs/digits/log/00000000000000000003.json")
    (entry,) = list_runs(store)
    assert entry.to_json()["damaged_slots"] == [3]


def test_a_store_that_does_not_answer_is_an_error(store):
    MadeUpRun(store=store)

    class Silent:
        def __getattr__(self, name):
            return getattr(store, name)

        def get(self, key, *, at_most=None):
            raise StoreUnavailableError(f"no answer for {key}, {at_most}")

    with pytest.raises(StoreUnavailableError):
        list_runs(Silent())


def test_a_last_attempt_without_end_whose_fence_is_closed_is_lost(store):
    run = MadeUpRun(store=store)
    run.start()
    state = run.log.refresh()
    state.open_fence = None
    assert run_status(state) == "lost"
