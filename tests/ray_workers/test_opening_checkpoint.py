import hashlib
from pathlib import Path

import pytest
import safetensors.torch

from ray_workers.opening_checkpoint import MANIFEST_FILE, open_checkpoint
from ray_workers.store.bodies import Condemn, Retire
from ray_workers.store.errors import (
    DigestMismatchError,
    InvalidInputError,
    RunNotFoundError,
    VersionGoneError,
    VersionNotFoundError,
)
from ray_workers.store.manifest import Manifest
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def run(tmp_path):
    """Four versions of two ranks; the tensors of version N hold N."""
    made = MadeUpRun(store=folder_store(tmp_path / "store"), name="run")
    made.start()
    for number in (1, 2, 3, 4):
        metrics = {"loss": abs(number - 2.0), "accuracy": -abs(number - 3.0)}
        made.commit(10 * number, content=float(number), metrics=metrics)
    made.judge(1, 2, 3)
    return made


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "store")


def weights(checkpoint):
    folder = Path(checkpoint.path)
    return {
        path.name: {k: v.tolist() for k, v in safetensors.torch.load_file(path).items()}
        for path in sorted(folder.glob("*.safetensors"))
    }


@pytest.mark.parametrize(
    ("reference", "number"), [("run@1", 1), ("run@latest", 4), ("run@sound", 3), ("run@best", 2)]
)
def test_state_is_a_manifest_and_shards_that_safetensors_reads(run, url, reference, number):
    checkpoint = open_checkpoint(reference, url)
    with checkpoint.as_directory() as folder:
        data = (Path(folder) / MANIFEST_FILE).read_bytes()
        assert hashlib.sha256(data).hexdigest() == run.version(number).manifest
        assert Manifest.from_bytes(data).progress.step == 10 * number
    assert weights(checkpoint) == {
        f"rank-{rank}-shard-{rank}.safetensors": {f"shared/model/weight{rank}": [float(number)] * 4}
        for rank in (0, 1)
    }


@pytest.mark.parametrize(
    ("by", "number"),
    [
        ({"mode": "max"}, 4),
        ({"metric": "accuracy"}, 1),
        ({"metric": "accuracy", "mode": "max"}, 3),
    ],
)
def test_the_best_one_is_by_the_metric_that_was_asked_for(run, url, by, number):
    data = (Path(open_checkpoint("run@best", url, **by).path) / MANIFEST_FILE).read_bytes()
    assert hashlib.sha256(data).hexdigest() == run.version(number).manifest


def test_the_storage_is_the_one_everybody_takes(run, url, monkeypatch, tmp_path):
    monkeypatch.setenv("PAWL_STORAGE", url)
    assert weights(open_checkpoint("run@1"))
    monkeypatch.delenv("PAWL_STORAGE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").rename(tmp_path / "pawl-store")
    assert weights(open_checkpoint("run@1"))


@pytest.mark.parametrize("which", ["manifest", "first shard", "last shard"])
def test_bad_bytes_are_not_handed_out(run, url, tmp_path, monkeypatch, which):
    key = run.manifest_key(2) if which == "manifest" else run.shard_keys(2)[-(which[0] == "l")]
    flip_byte(tmp_path / "store", key)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(DigestMismatchError, match=r"damaged|digest"):
        open_checkpoint("run@2", url)
    assert list(scratch.iterdir()) == []


def test_a_quarantined_version_opens_with_a_warning(run, url, caplog):
    run.judge(3, reason="NaN in weight0")
    assert weights(open_checkpoint("run@3", url))
    assert "run@3 is quarantined: NaN in weight0" in caplog.text
    caplog.clear()
    open_checkpoint("run@2", url)
    assert caplog.text == ""


def test_a_version_that_was_given_up_says_so(run, url):
    name = (run.version(1).name,)
    run.append(Retire(versions=name))
    run.append(Condemn(versions=name))
    with pytest.raises(VersionGoneError, match="condemned"):
        open_checkpoint("run@1", url)


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("run", InvalidInputError),
        ("run@", InvalidInputError),
        ("run@x", VersionNotFoundError),
        ("run@9", VersionNotFoundError),
        ("other@1", RunNotFoundError),
    ],
)
def test_a_reference_to_nothing_is_refused(run, url, reference, error):
    with pytest.raises(error):
        open_checkpoint(reference, url)


def test_a_storage_that_is_not_there_is_not_created(tmp_path):
    with pytest.raises(RunNotFoundError, match="no Pawl store"):
        open_checkpoint("run@1", str(tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []
