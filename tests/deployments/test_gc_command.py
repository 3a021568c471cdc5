import json

import pytest
from click.testing import CliRunner

from deployments.cli import pawl
from ray_workers.store.attempts import read_run
from ray_workers.store.bodies import Verdict
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Five sound versions of an attempt that has ended, as PAWL_STORAGE."""
    made = MadeUpRun(store=folder_store(tmp_path))
    made.start()
    for step in range(10, 60, 10):
        made.commit(step, epoch=step // 10)
    made.judge(1, 2, 3, 4, 5)
    made.end()
    monkeypatch.setenv("PAWL_STORAGE", str(tmp_path))
    return made


def call(words, code=0):
    result = CliRunner().invoke(pawl, words.split())
    assert result.exit_code == code, result.output
    return result.stdout


def statuses(run):
    return [v.status for v in read_run(run.store, run.name).versions.values()]


def test_a_dry_run_shows_the_plan_and_changes_nothing(run):
    slot = read_run(run.store, run.name).slot
    shown = call("gc digits --keep-last 2 --dry-run")
    assert "retire version 1: no rule keeps it" in shown
    assert "keep version 5: newest version" in shown
    assert read_run(run.store, run.name).slot == slot


def test_what_is_retired_goes_when_its_grace_is_over(run):
    call("gc digits --keep-last 2")
    assert statuses(run) == ["retired", "retired", "retired", "live", "live"]
    assert "its grace runs" in call("gc digits --dry-run --grace 1d")
    answer = json.loads(call("gc digits --grace 0s --json"))
    assert (answer["condemned"], answer["swept"]) == ([1, 2, 3], [1, 2, 3])
    assert statuses(run) == ["swept", "swept", "swept", "live", "live"]
    call("verify digits")


def test_all_runs_at_once(run):
    MadeUpRun(store=run.store, name="other").start()
    answers = json.loads(call("gc --all --dry-run --json"))
    assert [a["run"] for a in answers] == ["digits", "other"]


@pytest.mark.parametrize(
    "words",
    [
        "gc",
        "gc digits --all",
        "gc digits --grace soon",
        "gc digits --thin 1d,1h",
        "gc nobody",
        "verify",
    ],
)
def test_bad_input_is_refused_in_a_sentence(run, words):
    result = CliRunner().invoke(pawl, words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert run.store.url
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_a_run_is_deleted_whole(run):
    assert "5 versions gone entirely" in call("delete digits --yes")
    assert statuses(run) == ["swept"] * 5


def test_verify_all_reads_every_run_and_ends_with_1_when_one_is_bad(run, tmp_path):
    assert [a["good"] for a in json.loads(call("verify --all --json"))] == [True]
    flip_byte(tmp_path, run.shard_keys(2)[0])
    assert [a["good"] for a in json.loads(call("verify --all --json", code=1))] == [False]


def test_repair_notes_a_damaged_slot_and_deleting_goes_on(run, tmp_path):
    key = f"runs/digits/log/{3:020d}.json"
    (tmp_path / key).chmod(0o644)
    (tmp_path / key).write_bytes(b"rot")
    assert "slot 3 of the log is damaged" in call("gc digits --dry-run")
    assert "Nothing was deleted of digits" in call("gc digits", code=1)
    assert json.loads(call("gc digits --json", code=1))["blocked"]
    assert "slot 3 is damaged" in call("repair digits")
    assert read_run(run.store, "digits").unrepaired == (3,)
    assert "1 of 1 repairs made" in call("repair digits --apply --note nothing")
    assert read_run(run.store, "digits").unrepaired == ()
    assert "damaged" not in call("gc digits --dry-run")


def test_repair_fills_a_hole(run, tmp_path):
    (tmp_path / f"runs/digits/log/{4:020d}.json").unlink()
    assert "slot 4 is missing" in call("repair digits")
    call("repair digits --apply")
    assert (tmp_path / f"runs/digits/log/{4:020d}.json").exists()
    assert read_run(run.store, "digits").unrepaired == ()


def test_a_quarantine_by_mistake_is_lifted_only_when_a_person_says_so(run):
    name = run.version(2).name
    run.append(Verdict(versions=(name,), check="bytes", passed=False, reason="404", checker="c"))
    assert "--release lifts it" in call("repair digits --apply")
    assert run.version(2).rung == "quarantined"
    call("repair digits --apply --release")
    assert run.version(2).rung == "verified"


def test_a_version_that_is_really_bad_is_never_released(run, tmp_path):
    name = run.version(2).name
    flip_byte(tmp_path, run.shard_keys(2)[0])
    run.append(Verdict(versions=(name,), check="bytes", passed=False, reason="rot", checker="c"))
    assert "version 2 is unusable" in call("repair digits --apply --release")
    assert run.version(2).rung == "quarantined"


def test_a_sound_run_needs_no_repair(run):
    assert call("repair digits").strip() == "digits: nothing is wrong"
    assert run.name == "digits"
