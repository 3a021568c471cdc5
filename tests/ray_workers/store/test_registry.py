import math
import threading

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ray_workers.store import registry
from ray_workers.store.bodies import Condemn, Retire
from ray_workers.store.catalog import version_rows
from ray_workers.store.memory import MemoryStore
from ray_workers.store.registry import (
    SCHEMA,
    encode,
    read_registry,
    refresh_all,
    refresh_run,
    registry_key,
)
from tests.support.factories import MadeUpRun, flip_byte, folder_store


class Counting:
    """Counts reads of manifests."""

    def __init__(self, store):
        self._store = store
        self.manifests = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get(self, key, **rest):
        self.manifests += "/manifests/" in key
        return self._store.get(key, **rest)


@pytest.fixture
def run():
    made = MadeUpRun(store=MemoryStore())
    made.start()
    made.commit(
        10, metrics={"loss": 0.5, "acc": math.nan}, config={"lr": 0.1, "opt": "adam"}, epoch=1
    )
    made.commit(20, metrics={"loss": 0.25}, config={"lr": 1, "model": {"layers": 2, "bias": True}})
    return made


def rows(store):
    return read_registry(store).to_pylist()


def test_a_row_holds_what_log_and_manifest_say(run):
    run.judge(1, check="verified")
    run.tag("prod", 1)
    assert refresh_run(run.store, "digits").written
    first, second = rows(run.store)
    version = run.version(1)
    assert (first["run"], first["number"], first["step"], first["epoch"]) == ("digits", 1, 10, 1)
    assert (first["rung"], first["tags"], first["status"]) == ("verified", ["prod"], "live")
    assert (first["bytes"], first["bytes_new"], first["world_size"]) == (
        version.bytes,
        version.bytes,
        2,
    )
    assert (first["parent"], second["parent"], second["parent_run"]) == (None, 1, "digits")
    assert (first["attempt"], first["flow_run_id"], first["python"]) == (1, "flow-1", "3.11")
    assert (first["upload_s"], first["manifest"]) == (0.5, version.manifest)
    assert first["committed_at"].isoformat()[:19] == version.at[:19]


def test_hyperparameters_and_metrics_have_typed_columns(run):
    refresh_run(run.store, "digits")
    first, second = rows(run.store)
    assert (first["metrics.loss"], second["metrics.loss"]) == (0.5, 0.25)
    assert math.isnan(first["metrics.acc"])
    assert second["metrics.acc"] is None
    assert (first["config.lr"], second["config.lr"], first["config_text.opt"]) == (0.1, 1.0, "adam")
    assert (second["config.model.layers"], second["config.model.bias"]) == (2.0, 1.0)
    assert first["config_json"] == '{"lr": 0.1, "opt": "adam"}'


def test_runs_whose_columns_differ_are_one_table(run):
    other = MadeUpRun(store=run.store, name="other")
    other.start()
    other.commit(5, metrics={"f1": 0.9}, config={"lr": "auto", "opt": 3})
    assert [item.versions for item in refresh_all(run.store)] == [2, 1]
    table = read_registry(run.store)
    assert (
        table.schema.field("config.lr").type
        == table.schema.field("config.opt").type
        == pa.float64()
    )
    last = table.to_pylist()[-1]
    assert (last["run"], last["config_text.lr"], last["config.opt"], last["config.lr"]) == (
        "other",
        "auto",
        3.0,
        None,
    )


def test_a_refresh_reads_only_new_manifests_and_writes_only_news(run):
    refresh_run(run.store, "digits")
    counting = Counting(run.store)
    assert not refresh_run(counting, "digits").written
    run.commit(30)
    assert refresh_run(counting, "digits").written
    assert counting.manifests == 1
    run.judge(1)
    assert refresh_run(counting, "digits").written
    assert counting.manifests == 1
    assert rows(run.store)[0]["rung"] == "sound"
    assert refresh_run(counting, "digits", anew=True).written
    assert counting.manifests == 4


def test_what_was_deleted_keeps_its_row_and_its_facts(run):
    for step in (30, 40, 50):
        run.commit(step)
    run.judge(1, 2, 3, 4, 5)
    refresh_run(run.store, "digits")
    run.append(Retire(versions=(run.version(1).name,)))
    run.append(Condemn(versions=(run.version(1).name,)))
    run.store.delete(run.manifest_key(1))
    refresh_run(run.store, "digits")
    assert (rows(run.store)[0]["status"], rows(run.store)[0]["metrics.loss"]) == ("condemned", 0.5)
    refresh_run(run.store, "digits", anew=True)
    assert (rows(run.store)[0]["status"], rows(run.store)[0]["metrics_json"]) == ("condemned", None)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" * 20])
def test_a_damaged_or_foreign_file_is_no_error_and_is_made_again(run, content):
    run.store.put(registry_key("digits"), content)
    assert read_registry(run.store).num_rows == 0
    assert refresh_run(run.store, "digits").written
    assert len(rows(run.store)) == 2


def test_a_file_of_another_format_is_not_trusted(run, monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY_FORMAT", 99)
    refresh_run(run.store, "digits")
    monkeypatch.undo()
    assert read_registry(run.store).num_rows == 0
    assert refresh_run(run.store, "digits").written


def test_a_run_that_took_the_name_anew_is_written_though_its_log_is_shorter(run):
    refresh_run(run.store, "digits")
    for info in list(run.store.list("runs/digits/")):
        run.store.delete(info.key)
    fresh = MadeUpRun(store=run.store)
    fresh.start()
    fresh.commit(7)
    refresh_run(run.store, "digits")
    assert [row["step"] for row in rows(run.store)] == [7]


def test_a_run_that_cannot_be_read_is_named_and_the_rest_is_done(run):
    run.store.put("runs/Bad/log/00000000000000000001.json", b"x")
    bad, good = refresh_all(run.store)
    assert "not legal" in str(bad.problem)
    assert (good.run, good.written) == ("digits", True)


def test_an_older_writer_that_comes_late_does_not_win(run):
    """A writer reads the log, stalls, and replaces the file of one that had read more."""
    stale = encode([], run_id=str(run.log.state.run_id), slot=2)

    class Late(Counting):
        puts = 0

        def put(self, key, data):
            self._store.put(key, data)
            self.puts += 1
            if self.puts == 1:
                self._store.put(key, stale)

    late = Late(run.store)
    refresh_run(late, "digits")
    assert late.puts == 2
    assert len(rows(run.store)) == 2


def test_rebuilding_while_a_run_writes_never_shows_half_a_file(tmp_path):
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(1)
    done, problems = threading.Event(), []

    path = tmp_path / registry_key("digits")

    def until_done(act):
        while not done.is_set():
            act()

    def look():
        # Through one open file: pyarrow opens a path twice, and between the two it may be another file.
        with path.open("rb") as file:
            numbers = pq.read_table(file)["number"].to_pylist()
        if numbers != list(range(1, len(numbers) + 1)):
            problems.append(numbers)

    def rebuild():
        refresh_run(run.store, "digits", anew=True)

    rebuild()
    threads = [threading.Thread(target=until_done, args=[act]) for act in (rebuild, rebuild, look)]
    for thread in threads:
        thread.start()
    for step in range(2, 16):
        run.commit(step)
    done.set()
    list(map(threading.Thread.join, threads))
    refresh_run(run.store, "digits")
    assert not problems
    assert len(rows(run.store)) == 15


def test_what_a_version_took_over_from_its_base_is_not_new(run):
    number = run.commit(100, base=1)
    refresh_run(run.store, "digits")
    (row,) = [row for row in rows(run.store) if row["number"] == number]
    first = version_rows(run.store, "digits")[0].facts
    assert first is not None
    assert row["bytes_new"] == row["bytes"] - first.shards[0].bytes


def test_it_is_read_without_pawl(run, tmp_path):
    """As docs/registry.md tells it: pyarrow's dataset, pandas through it, DuckDB."""
    import duckdb  # noqa: PLC0415 - only here

    folder = MadeUpRun(store=folder_store(tmp_path))
    folder.start()
    folder.commit(10, metrics={"loss": 0.5}, config={"lr": 0.1})
    other = MadeUpRun(store=folder.store, name="other")
    other.start()
    other.commit(10, metrics={"f1": 0.5}, config={"opt": "adam"})
    refresh_all(folder.store)
    path = tmp_path / "registry" / "versions"
    files = sorted(path.glob("*.parquet"))
    schema = pa.unify_schemas([pq.read_schema(file) for file in files])
    frame = ds.dataset(path, schema=schema).to_table().to_pandas()
    assert list(frame["run"]) == ["digits", "other"]
    assert set(SCHEMA.names) < set(frame.columns)
    read = duckdb.read_parquet(f"{path}/*.parquet", union_by_name=True)
    assert read.filter('"metrics.loss" < 1').project("run").fetchall() == [("digits",)]


def test_a_damaged_manifest_leaves_the_row_and_is_tried_again(tmp_path):
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    run.commit(10)
    flip_byte(tmp_path, run.manifest_key(1))
    refresh_run(run.store, "digits")
    (row,) = rows(run.store)
    assert (row["number"], row["payload"]) == (1, None)
    flip_byte(tmp_path, run.manifest_key(1))
    run.judge(1)
    refresh_run(run.store, "digits")
    assert rows(run.store)[0]["payload"] == "state"


def test_a_metric_over_the_current_versions_has_no_step_twice_and_leaves_none_out(run):
    run.start(1)  # a retry goes on from step 10: what stood at 20 is done again
    run.commit(15, metrics={"loss": 0.4})
    run.commit(20, metrics={"loss": 0.2})
    refresh_run(run.store, "digits")
    found = [(r["step"], r["metrics.loss"], r["attempt"]) for r in rows(run.store) if r["current"]]
    assert found == [(10, 0.5, 1), (15, 0.4, 2), (20, 0.2, 2)]
    run.commit(30, metrics={"loss": 0.1})  # with what the file already knew of the others
    refresh_run(run.store, "digits")
    assert [r["step"] for r in rows(run.store) if r["current"]] == [10, 15, 20, 30]
