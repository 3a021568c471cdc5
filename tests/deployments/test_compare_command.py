import csv
import json
import math

import pyarrow.parquet as pq
import pytest
import torch
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
    page = tmp_path / "pages" / "page.html"
    found = json.loads(call(*words, "--html", str(page), "--json").stdout)
    assert list(found["metrics"]["loss"]) == ["run@1", "run@2"]
    assert page.read_text().startswith("<!doctype html>")
    with (tmp_path / "layers.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["layer"] for row in rows} >= {"0.weight", "3.bias"}
    (whole,) = csv.DictReader((tmp_path / "whole.csv").read_text().splitlines())
    assert float(whole["distance"]) == pytest.approx(
        math.hypot(*(float(row["distance"]) for row in rows))
    )
    assert found["whole"]["run@2"]["distance"] == float(whole["distance"])
    call(*words, "--format", "parquet", "--no-weights")
    curves = pq.read_table(tmp_path / "curves.parquet").to_pylist()
    assert [row["step"] for row in curves if row["reference"] == "run@2"] == [1, 2, 3, 4]
    assert pq.read_table(tmp_path / "layers.parquet").num_rows == 0


def test_a_version_that_is_not_finite_is_compared(tmp_path):
    patient_process(tmp_path).attempt(small_loop(spoil_at=5, spoil=spoil), {"epochs": 1})
    words = ("compare", "run@1", "run@latest", "--storage", str(tmp_path / "store"))
    found = json.loads(call(*words, "--json").stdout)
    layers = {layer["name"]: layer for layer in found["layers"]["run@3"]}
    assert layers["3.bias"]["other_norm"] == {"$float": "nan"}
    assert found["whole"]["run@3"]["distance"] == {"$float": "nan"}
    lines = call(*words).stdout.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("LAYER"))
    assert lines[at + 1].split()[:2] == ["(all", "layers)"]
    assert lines[at + 2].split()[0] == "3.bias"


def spoil(model):
    """The last layer's bias diverges."""
    with torch.no_grad():
        model[3].bias.fill_(math.nan)


def test_bad_input_is_one_sentence(url):
    page = ("--html", "/dev/null/page.html", "--no-weights")
    refused = call("compare", "run@1", "run@2", "--storage", url, *page, code=2).stderr
    assert "could not be written to /dev/null/page.html" in refused
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
