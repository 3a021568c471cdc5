"""Stores that earlier Pawls wrote are read as on the day they were made, and training goes on in them."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.store import bodies
from ray_workers.store.audit import audit_run
from ray_workers.store.errors import DamageError
from ray_workers.store.opening import FORMAT, open_root
from tests.support import format_fixture
from tests.support.factories import flip_byte
from tests.support.format_fixture import describe, expected, record_kinds, unpack
from tests.support.small_training import STEPS, patient_process, small_loop

FIXTURES = sorted((Path(__file__).parent / "formats").glob("*.zip"))
NEWEST = [path for path in FIXTURES if path.name.startswith(f"format-{FORMAT}")]


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def archive(request):
    return request.param


@pytest.fixture
def store(archive, tmp_path):
    return open_root(str(unpack(archive, tmp_path)), create=False).store


def test_there_is_a_fixture_of_this_format_and_they_are_small():
    assert NEWEST
    assert sum(path.stat().st_size for path in FIXTURES) < 300_000 * FORMAT


def test_every_run_is_read_as_on_the_day_it_was_written(archive, store):
    assert json.loads(json.dumps(describe(store))) == expected(archive)


def test_a_changed_byte_is_not_read_as_on_that_day(archive, tmp_path):
    """The comparison above sees every kind of object."""
    folder = unpack(archive, tmp_path)
    keys = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    for kind in ("/log/", "/manifests/", "/shards/"):
        (key, *_) = [key for key in keys if kind in key and "/trained/" in key]
        flip_byte(folder, key)
        changed = described_or_damaged(folder)
        flip_byte(folder, key)
        assert changed != expected(archive), key
    assert described_or_damaged(folder) == expected(archive)


def described_or_damaged(folder: Path):
    try:
        return json.loads(json.dumps(describe(open_root(str(folder), create=False).store)))
    except DamageError as error:
        return error.kind


@pytest.mark.parametrize("run", ["trained", "files", "features", "child", "freed", "deleted"])
def test_every_object_still_holds(store, run):
    assert audit_run(store, run).good


def test_what_rotted_is_still_found(store):
    (bad,) = audit_run(store, "rotten").bad_objects
    assert bad.version == 2
    assert [slot.repaired for slot in audit_run(store, "damaged").damaged_slots] == [True, True]


def test_training_goes_on_from_a_version_of_that_day(archive, tmp_path):
    unpack(archive, tmp_path)
    newest = max(v["step"] for v in expected(archive)["trained"]["versions"].values())
    assert newest == STEPS
    again = patient_process(tmp_path, "trained").attempt(
        small_loop(), {"epochs": 5}, resume="trained@2"
    )
    assert again.resumed.name.number == 2
    assert again.state.newest_first()[0].step == STEPS // 3 * 5


def test_the_fixture_of_this_format_holds_every_kind_of_record(tmp_path):
    folder = unpack(NEWEST[-1], tmp_path)
    every = {body.kind for body in bodies.Body.__subclasses__()}
    assert record_kinds(open_root(str(folder), create=False).store) == every


def test_a_fixture_is_never_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(
        format_fixture, "make_runs", lambda folder: open_root(str(folder / "store"), create=True)
    )
    archive = tmp_path / "format-9.zip"
    assert format_fixture.main([str(archive)]) == 0
    with zipfile.ZipFile(archive) as made:
        assert made.namelist() == ["expected.json", "store/pawl.json"]
    with pytest.raises(FileExistsError):
        format_fixture.main([str(archive)])


# --- newer ones --------------------------------------------------------------------------------------------------


def call(folder: Path, *words: str):
    return CliRunner().invoke(pawl, [*words, "--storage", str(folder)])


def rewrite(path: Path, pattern: str, new: str) -> None:
    text = path.read_text()
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text
    path.chmod(0o644)
    path.write_text(changed)


@pytest.mark.parametrize("words", [("runs",), ("versions", "trained"), ("gc", "trained")])
def test_a_store_of_a_newer_format_is_refused_with_a_sentence(archive, tmp_path, words):
    folder = unpack(archive, tmp_path)
    rewrite(folder / "pawl.json", r'"format":\d+', f'"format":{FORMAT + 1}')
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = call(folder, *words)
    assert result.exit_code == 2
    assert f"has format {FORMAT + 1}" in result.stderr
    assert "install a newer Pawl" in result.stderr
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
