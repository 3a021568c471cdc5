import json
import math
import threading

import pytest

from ray_workers.store.bodies import Condemn, Retire, RolledBack, Swept
from ray_workers.store.catalog import VersionCatalog, attempt_numbers, version_rows
from ray_workers.store.errors import RunNotFoundError, StoreUnavailableError
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def run(tmp_path):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    return made


class CountingStore:
    """Counts reads of manifests; the rest goes through."""

    def __init__(self, store):
        self._store = store
        self.manifests = 0
        self._lock = threading.Lock()

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get(self, key, **rest):
        with self._lock:
            self.manifests += "/manifests/" in key
        return self._store.get(key, **rest)


def test_a_row_joins_the_log_and_the_manifest(run):
    run.commit(10, epoch=1, metrics={"loss": 0.5}, config={"lr": 0.1, "layers": [1, 2]})
    run.judge(1, check="verified")
    run.tag("prod", 1)
    (row,) = [entry.to_json() for entry in version_rows(run.store, "digits")]
    shards = row.pop("shards")
    version = run.version(1)
    assert row == {
        "number": 1, "step": 10, "epoch": 1, "epochs_wanted": 3, "finished": False, "rung": "verified", "reason": None,
        "status": "live", "tags": ["prod"], "metrics": {"loss": 0.5}, "config": {"lr": 0.1, "layers": [1, 2]},
        "bytes": version.bytes, "bytes_new": version.bytes, "committed_at": version.at, "attempt": 1, "fence": run.fence,
        "manifest": version.manifest, "parent": None, "parent_run": None, "payload": "state", "world_size": 2,
        "durations": {"staging_s": 0.25, "upload_s": 0.5}, "interrupted": None,
    }  # fmt: skip
    assert [(shard["key"], shard["rank"]) for shard in shards] == [
        (key, rank) for rank, key in enumerate(run.shard_keys(1))
    ]
    assert all(shard["bytes"] == len(run.store.get(shard["key"])) for shard in shards)


def test_equal_state_gives_equal_shard_digests(run):
    run.commit(10, content=1.0)
    run.commit(20, content=1.0)
    run.commit(30, content=2.0)
    digests = [
        [shard["digest"] for shard in entry.to_json()["shards"]]
        for entry in version_rows(run.store, "digits")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_values_that_are_not_finite_are_still_json(run):
    run.commit(10, metrics={"loss": math.nan, "norm": math.inf})
    (entry,) = version_rows(run.store, "digits")
    text = json.dumps(entry.to_json(), allow_nan=False)
    assert json.loads(text)["metrics"] == {"loss": {"$float": "nan"}, "norm": {"$float": "inf"}}


def test_attempts_are_numbered_by_fence_and_parents_are_named(run):
    run.commit(10)
    run.start(1)
    run.commit(20)
    rows = [entry.to_json() for entry in version_rows(run.store, "digits")]
    assert [(row["attempt"], row["parent"], row["parent_run"]) for row in rows] == [
        (1, None, None),
        (2, 1, "digits"),
    ]


def test_the_parent_of_a_fork_is_in_the_other_run(run):
    run.commit(10)
    child = run.fork(1, "child")
    child.commit(20)
    (row,) = [entry.to_json() for entry in version_rows(run.store, "child")]
    assert (row["number"], row["parent"], row["parent_run"]) == (1, 1, "digits")


def test_a_damaged_manifest_leaves_what_the_log_knows(run, tmp_path):
    run.commit(10)
    run.commit(20)
    run.judge(1, 2)
    flip_byte(tmp_path, run.manifest_key(1))
    damaged, whole = (entry.to_json() for entry in version_rows(run.store, "digits"))
    assert damaged["reason"].startswith(run.manifest_key(1))
    assert (damaged["number"], damaged["step"], damaged["rung"]) == (1, 10, "sound")
    assert damaged["metrics"] is None
    assert damaged["shards"] is None
    assert set(damaged) == set(whole)
    assert whole["reason"] is None


def test_the_reason_of_a_quarantine_comes_before_that_of_the_manifest(run, tmp_path):
    run.commit(10)
    run.judge(1, reason="jumped")
    flip_byte(tmp_path, run.manifest_key(1))
    (entry,) = version_rows(run.store, "digits")
    assert entry.reason == "jumped"
    assert entry.problem is not None


def test_what_was_given_up_is_listed_without_being_called_damaged(run):
    for step in (10, 20, 30, 40, 50):
        run.commit(step)
    run.judge(1, 2, 3, 4, 5)
    run.append(Retire(versions=(run.version(1).name, run.version(2).name)))
    run.append(Condemn(versions=(run.version(1).name,)))
    run.store.delete(run.manifest_key(1))
    run.append(Swept(versions=(run.version(1).name,)))
    run.append(RolledBack(to=run.version(4).name))
    entries = version_rows(run.store, "digits")
    assert [entry.status for entry in entries] == ["swept", "retired", "live", "live", "abandoned"]
    assert entries[0].reason == "its bytes are given up: it is swept"
    assert entries[1].reason is None


def test_manifests_are_read_once_for_all_time(run):
    store = CountingStore(run.store)
    catalog = VersionCatalog(store, "digits")
    run.commit(10)
    run.commit(20)
    catalog.entries(run.log.refresh())
    assert store.manifests == 2
    run.commit(30)
    entries = catalog.entries(run.log.refresh())
    assert store.manifests == 3
    assert all(entry.facts is not None for entry in entries)


def test_only_the_wanted_manifests_are_read(run):
    run.commit(10)
    run.commit(20)
    store = CountingStore(run.store)
    (entry,) = VersionCatalog(store, "digits").entries(run.log.refresh(), [2])
    assert (entry.version.number, store.manifests) == (2, 1)


def test_a_store_that_does_not_answer_is_no_damage(run):
    run.commit(10)

    class Silent(CountingStore):
        def get(self, key, **rest):
            if "/manifests/" in key:
                raise StoreUnavailableError("no answer")
            return super().get(key, **rest)

    with pytest.raises(StoreUnavailableError):
        version_rows(Silent(run.store), "digits")


def test_a_run_without_versions_has_no_rows_and_no_run_is_an_error(run):
    assert version_rows(run.store, "digits") == ()
    with pytest.raises(RunNotFoundError, match="digits"):
        version_rows(run.store, "other")


def test_an_attempt_whose_start_is_damaged_keeps_its_number(run):
    run.commit(10)
    run.start(1)
    run.commit(20)
    state = run.log.refresh()
    first, second = sorted(state.attempts)
    del state.attempts[first]
    assert attempt_numbers(state) == {first: 1, second: 2}
