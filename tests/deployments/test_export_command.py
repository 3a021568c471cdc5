import json

import pytest
import safetensors.torch
from click.testing import CliRunner

from deployments.cli import pawl
from tests.support.small_training import patient_process, small_loop


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    patient_process(folder).attempt(small_loop(die_at=None), {"epochs": 1})
    return str(folder / "store")


def call(*words, code=0):
    result = CliRunner().invoke(pawl, list(words))
    assert result.exit_code == code, result.output
    return result


def test_a_version_is_exported_and_told(url, tmp_path):
    out = tmp_path / "out"
    told = call("export", "run@latest", "--to", str(out), "--storage", url, "--names", "0.*").stdout
    assert told.startswith("run@3 (committed): 2 files")
    assert set(safetensors.torch.load_file(out / "model.safetensors")) == {"0.weight", "0.bias"}


def test_as_json(url, tmp_path):
    words = ("export", "run@1", "--to", str(tmp_path / "out"), "--format", "hf", "--storage", url)
    done = json.loads(call(*words, "--json").stdout)
    assert (done["reference"], done["left_out"]) == ("run@1", [])
    assert "model.safetensors" in done["files"]


def test_bad_input_is_one_sentence(url, tmp_path):
    (tmp_path / "x").write_text("")
    words = ("export", "run@1", "--to", str(tmp_path), "--storage", url)
    assert "is not empty" in call(*words, code=2).stderr
    refused = call(
        "export", "run@1", "--to", str(tmp_path / "new"), "--format", "files", "--storage", url, code=2
    )  # fmt: skip
    assert "not as files" in refused.stderr


def test_the_best_goes_by_the_metric_and_the_mode_that_are_named(url, tmp_path):
    words = ("export", "run@best", "--storage", url, "--json")
    picked = [
        json.loads(call(*words, "--to", str(tmp_path / mode), "--mode", mode).stdout)["reference"]
        for mode in ("min", "max")
    ]
    assert len(set(picked)) == 2
    by = ("--metric", "accuracy", "--mode", "max")
    refused = call(*words, "--to", str(tmp_path / "x"), *by, code=2).stderr
    assert "no version 'best'" in refused
