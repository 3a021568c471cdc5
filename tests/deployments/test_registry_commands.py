import json
import shutil

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.store.errors import StoreRefusedError
from ray_workers.store.local_folder import LocalFolderStore
from tests.support.factories import MadeUpRun, folder_store


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for step, loss in ((10, 0.5), (20, 0.25), (30, 0.75)):
        made.commit(step, metrics={"loss": loss, "acc": 1 - loss}, config={"lr": step / 1000})
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    return made


def call(*words, code=0):
    result = CliRunner().invoke(pawl, list(words))
    assert result.exit_code == code, result.output
    return result


def found(condition, *more):
    rows = json.loads(call("search", condition, *more, "--json").stdout)
    return [row["number"] for row in rows]


def test_the_registry_is_made_refreshed_and_found(run, tmp_path):
    assert call("registry", "rebuild").stdout == "1 run, 3 versions; 1 file written.\n"
    assert call("registry", "refresh").stdout.endswith("0 files written.\n")
    run.commit(40)
    (done,) = json.loads(call("registry", "refresh", "digits", "--json").stdout)
    assert done == {"run": "digits", "versions": 4, "written": True, "problem": None}
    path = call("registry", "path").stdout.strip()
    assert path == str(tmp_path / "registry" / "versions")
    assert pq.read_table(f"{path}/digits.parquet").num_rows == 4


@pytest.mark.usefixtures("run")
def test_search_finds_what_was_committed_just_now():
    assert found("metrics.loss < 0.6 and config.lr >= 0.015") == [2]
    assert found("true", "--sort", "metrics.loss desc", "--limit", "2") == [3, 1]
    lines = call("search", "metrics.loss < 0.6").stdout.splitlines()
    assert lines[0].split()[:6] == ["VERSION", "STEP", "RUNG", "loss", "acc", "lr"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["digits@1", "10", "committed", "0.5"],
        ["digits@2", "20", "committed", "0.25"],
    ]
    assert call("search", "step > 1000").stdout == "No version matches.\n"


def test_a_stale_search_reads_the_registry_as_it_is(run):
    call("registry", "refresh")
    run.commit(40)
    assert found("true", "--stale") == [1, 2, 3]
    assert found("true") == [1, 2, 3, 4]


@pytest.mark.usefixtures("run")
def test_a_bad_condition_is_one_sentence():
    result = call("search", "metrics.los < 1", code=2)
    assert result.stderr.startswith("Error: No version has metrics.los.")
    assert "empty" in call("search", " ", code=2).stderr


def test_who_may_only_read_gets_an_answer_and_is_told_that_it_may_be_old(run, monkeypatch):
    call("registry", "refresh")
    run.commit(40)

    def refused(_self, key, _data):
        raise StoreRefusedError(f"{key} may not be written.")

    monkeypatch.setattr(LocalFolderStore, "put", refused)
    result = call("search", "true", "--json")
    assert [row["number"] for row in json.loads(result.stdout)] == [1, 2, 3]
    assert "newer versions may be missing: registry/versions/digits.parquet may" in result.stderr


def test_a_search_names_the_runs_that_it_could_not_look_at(run):
    run.store.put("runs/Bad/log/00000000000000000001.json", b"x")
    result = call("search", "true", "--json")
    assert len(json.loads(result.stdout)) == 3
    assert "Bad: The run name" in result.stderr


def test_a_rebuild_takes_away_files_of_runs_that_are_gone(run, tmp_path, monkeypatch):
    other = MadeUpRun(store=run.store, name="other")
    other.start()
    other.commit(10)
    call("registry", "refresh")
    shutil.rmtree(tmp_path / "runs" / "other")
    assert len(found("true")) == 4

    def refused(_self, key):
        raise StoreRefusedError(f"{key} may not be deleted.")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolderStore, "delete", refused)
        left = call("registry", "rebuild")
    assert "other.parquet may not be deleted" in left.stderr
    assert (tmp_path / "registry/versions/other.parquet").exists()
    assert "other: its file was removed" in call("registry", "rebuild").stderr
    assert found("true") == [1, 2, 3]


def test_a_run_that_cannot_be_read_is_named(run):
    run.store.put("runs/Bad/log/00000000000000000001.json", b"x")
    result = call("registry", "refresh", code=1)
    assert "Bad: The run name" in result.stderr
