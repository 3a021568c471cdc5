import csv
import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from tests.support.factories import MadeUpRun, folder_store
from tests.support.small_training import patient_process, small_loop


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    patient_process(folder).attempt(small_loop(), {"epochs": 1})
    return str(folder / "store")


def call(*words, code=0):
    result = CliRunner().invoke(pawl, list(words))
    assert result.exit_code == code, result.output
    return result


def test_two_versions_side_by_side(url):
    text = call("compare", "run@1", "run", "--storage", url).stdout
    assert text.splitlines()[0].split() == ["run@1", "run@3"]
    assert "Their hyperparameters are the same." in text
    heads = next(line for line in text.splitlines() if line.startswith("LAYER"))
    assert heads.split()[1:] == ["NORM", "run@1", "NORM", "run@3", "DISTANCE", "%", "OF", "run@1"]


def test_everything_is_exported(url, tmp_path):
    words = ("compare", "run@1", "run@2", "--storage", url, "--export", str(tmp_path))
    page = tmp_path / "page.html"
    found = json.loads(call(*words, "--html", str(page), "--json").stdout)
    assert list(found["metrics"]["loss"]) == ["run@1", "run@2"]
    assert page.read_text().startswith("<!doctype html>")
    with (tmp_path / "layers.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["layer"] for row in rows} >= {"0.weight", "3.bias"}
    call(*words, "--format", "parquet", "--no-weights")
    curves = pq.read_table(tmp_path / "curves.parquet").to_pylist()
    assert [row["step"] for row in curves if row["reference"] == "run@2"] == [1, 2, 3, 4]
    assert pq.read_table(tmp_path / "layers.parquet").num_rows == 0


def test_bad_input_is_one_sentence(url):
    assert "at least two" in call("compare", "run@1", "--storage", url, code=2).stderr
    assert "no version '9'" in call("compare", "run@1", "run@9", "--storage", url, code=2).stderr


def test_the_best_goes_by_the_metric_and_the_mode_that_are_named(tmp_path):
    run = MadeUpRun(store=folder_store(tmp_path))
    run.start()
    for number, accuracy in enumerate((0.5, 0.9, 0.7), start=1):
        run.commit(10 * number, metrics={"accuracy": accuracy})
    words = ("compare", "digits@1", "digits@best", "--storage", str(tmp_path), "--no-weights")
    found = json.loads(call(*words, "--metric", "accuracy", "--mode", "max", "--json").stdout)
    assert [version["reference"] for version in found["versions"]] == ["digits@1", "digits@2"]
    assert "no version 'best'" in call(*words, code=2).stderr
