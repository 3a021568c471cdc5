import json

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.store import keys
from tests.support.factories import MadeUpRun, folder_store


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for step, loss in ((10, 0.5), (20, 0.25), (30, 0.75)):
        made.commit(step, metrics={"loss": loss})
    made.judge(1)
    made.judge(3, reason="NaN in weight0")
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    monkeypatch.delenv("PAWL_PROTECTED_TAGS", raising=False)
    return made


def call(words, code=0):
    result = CliRunner().invoke(pawl, words.split())
    assert result.exit_code == code, result.output
    return result


def tags():
    return {row["name"]: row["version"] for row in json.loads(call("tags digits --json").stdout)}


@pytest.mark.usefixtures("run")
def test_a_tag_is_set_moved_used_and_taken_off():
    assert call("tag digits@1 candidate").stdout == "digits@1 is candidate now.\n"
    moved = call("tag digits@best candidate").stdout
    assert moved == "digits@2 is candidate now, and @1 is not any more.\n"
    assert "already" in call("tag digits@2 candidate").stdout
    assert json.loads(call("show digits@candidate --json").stdout)["number"] == 2
    assert call("verify digits@candidate").exit_code == 0
    assert call("tags digits").stdout.splitlines()[1].split() == [
        "candidate",
        "2",
        "20",
        "committed",
    ]
    call("untag digits candidate")
    assert tags() == {}
    history = json.loads(call("tags digits --history --json").stdout)
    assert [(m["before"], m["version"]) for m in history] == [(None, 1), (1, 2), (2, None)]
    assert len(call("tags digits --history").stdout.splitlines()) == 4


@pytest.mark.usefixtures("run")
def test_a_protected_tag_needs_force():
    refused = call("tag digits@1 production", code=2).stderr
    assert "promotion flow, or with --force" in refused
    call("tag digits@1 production --force")
    assert "protected" in call("tags digits").stdout
    call("untag digits production", code=2)
    assert tags() == {"production": 1}
    gone = json.loads(call("untag digits production --force --json").stdout)
    assert (gone["name"], gone["before"], gone["version"]) == ("production", 1, None)


@pytest.mark.usefixtures("run")
def test_what_cannot_be_tagged_is_said_in_a_sentence():
    assert "quarantined: NaN" in call("tag digits@3 candidate", code=2).stderr
    assert "is computed" in call("tag digits@1 latest", code=2).stderr
    assert "no tag 'nothing'" in call("untag digits nothing", code=2).stderr
    assert "no version number" in call("tag digits@1 candidate --expect x", code=2).stderr
    assert "on no version" in call("tag digits@1 candidate --expect 2", code=1).stderr
    call("tag digits@1 candidate --expect none")
    call("tag digits@2 candidate --expect 1")
    assert tags() == {"candidate": 2}


def test_a_tag_whose_version_was_lost_is_listed_moved_and_taken_off(run, tmp_path):
    run.judge(1)
    for name in ("candidate", "other"):
        call(f"tag digits@2 {name}")
    key = tmp_path / keys.log_key("digits", run.version(2).slot)
    key.chmod(0o644)
    key.write_bytes(b"rot")
    assert "2 (lost)" in call("tags digits").stdout
    assert json.loads(call("tags digits --json").stdout)[0] == {
        "name": "candidate", "version": 2, "step": None, "rung": None, "protected": False,
    }  # fmt: skip
    assert call("tag digits@1 candidate").stdout.startswith("digits@1 is candidate now")
    assert call("untag digits other").stdout == "digits@2 is not other any more.\n"
    assert tags() == {"candidate": 1}
