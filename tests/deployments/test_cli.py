import json
import os
import pty
import re
import resource
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from deployments.cli import exit_code, pawl
from ray_workers.store import errors
from ray_workers.store.bodies import Condemn, Retire
from tests.support.factories import MadeUpRun, flip_byte, folder_store

TABLES = {"pandas", "pyarrow", "numpy", "duckdb"}
HEAVY = {"torch", "ray", "prefect", "obstore", *TABLES}
READ_COMMANDS = (
    "runs", "versions digits", "show digits@latest", "verify digits", "tags digits", "tags digits --history",
    "lineage digits", "explain digits", "health", "health --quick --json", "doctor", "gc digits --dry-run",
    "repair digits",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A store with one run of three versions, as PAWL_STORAGE."""
    store = tmp_path / "store"
    run = MadeUpRun(store=folder_store(store))
    run.start()
    for step, loss in ((10, 0.5), (20, 0.25), (30, 0.75)):
        run.commit(step, epoch=step // 10, metrics={"loss": loss})
    run.judge(1, 2, check="verified")
    run.judge(1)
    monkeypatch.setenv("PAWL_STORAGE", str(store))
    return store


def call(*words, code=0):
    result = CliRunner().invoke(pawl, [w for word in words for w in word.split()])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == code, result.output
    return result


def answer(*words, code=0):
    return json.loads(call(*words, "--json", code=code).stdout)


def refused(*words, code=2):
    """The one sentence on stderr; stdout stays empty."""
    result = call(*words, code=code)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | env,
        check=False,
    )


@pytest.mark.usefixtures("folder")
def test_versions_as_json_hold_all_that_was_promised():
    rows = answer("versions digits")
    promised = (
        "number step epoch rung reason metrics config bytes committed_at attempt parent world_size shards "
        "status tags fence durations"
    )
    assert all(set(promised.split()) <= set(row) for row in rows)
    assert all({"key", "digest", "bytes"} <= set(shard) for row in rows for shard in row["shards"])
    assert [(row["number"], row["step"], row["rung"]) for row in rows] == [
        (1, 10, "sound"), (2, 20, "verified"), (3, 30, "committed"),
    ]  # fmt: skip


@pytest.mark.usefixtures("folder")
def test_versions_as_text_are_one_line_each():
    lines = call("versions digits").stdout.splitlines()
    assert lines[0].split()[:5] == ["VERSION", "STEP", "EPOCH", "LOSS", "RUNG"]
    assert [line.split()[:5] for line in lines[1:]] == [
        ["1", "10", "1", "0.5", "sound"],
        ["2", "20", "2", "0.25", "verified"],
        ["3", "30", "3", "0.75", "committed"],
    ]


@pytest.mark.usefixtures("folder")
def test_runs_are_listed():
    (row,) = answer("runs")
    assert (row["run"], row["versions"], row["newest"], row["status"]) == (
        "digits",
        3,
        3,
        "running",
    )
    assert call("runs").stdout.splitlines()[1].split()[:5] == ["digits", "running", "3", "3", "30"]


@pytest.mark.parametrize(
    ("reference", "number"),
    [("2", 2), ("latest", 3), ("sound", 1), ("best", 2), ("best --mode max", 3)],
)
def test_a_version_is_shown_by_number_or_word(folder, reference, number):
    shown = answer(f"show digits@{reference}")
    assert (shown["run"], shown["number"]) == ("digits", number)
    assert (folder / shown["manifest_key"]).is_file()
    assert shown["environment"] == {"python": "3.11"}
    assert shown["curve"]["loss"]["steps"][-1] == shown["step"]
    assert f"digits@{number}" in call(f"show digits@{reference}").stdout


def test_tags_and_a_status_are_noted(folder):
    run = MadeUpRun(store=folder_store(folder))
    run.judge(2, 3)
    run.tag("prod", 2)
    run.append(Retire(versions=(run.version(1).name,)))
    lines = call("versions digits").stdout.splitlines()
    assert lines[1].endswith("retired")
    assert lines[2].endswith("tag prod")


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(folder):
    (folder / "runs/empty/shards").mkdir(parents=True)
    (folder / "runs/empty/shards/x").write_bytes(b"x")
    assert "unreadable: it has no log" in call("runs").stdout


def test_many_versions_are_counted_instead_of_listed(folder):
    run = MadeUpRun(store=folder_store(folder), ranks=1)
    run.start(3)
    for step in range(31, 40):
        run.commit(step)
    assert "of 12 versions." in call("verify digits").stdout


@pytest.mark.usefixtures("folder")
def test_showing_a_version_tells_its_facts():
    text = call("show digits@2").stdout
    for told in ("verified", "digits@1", "2 of 3", "lr 0.1", "loss 0.25", "xxh3-128:", "attempt 1"):
        assert told in text


def test_a_version_with_a_damaged_manifest_is_listed_and_shown(folder):
    key = answer("show digits@2")["manifest_key"]
    flip_byte(folder, key)
    assert key in answer("versions digits")[1]["reason"]
    assert answer("show digits@2")["shards"] is None
    assert key in call("show digits@2").stdout
    assert "digest" in call("versions digits").stdout


@pytest.mark.usefixtures("folder")
def test_of_many_versions_the_newest_can_be_asked_for():
    assert [row["number"] for row in answer("versions digits --last 2")] == [2, 3]
    assert len(answer("versions digits --last 9")) == len(answer("versions digits"))
    call("versions digits --last 0", code=2)


@pytest.mark.usefixtures("folder")
def test_verify_says_that_all_is_well_with_progress_beside_it():
    result = call("verify digits")
    assert "Nothing is damaged." in result.stdout
    assert "reading version 3" in result.stderr
    assert "reading" not in result.stdout
    assert answer("verify digits@best")["versions"] == [2]


def test_verify_reports_damage_and_fails(folder):
    shard = answer("show digits@2")["shards"][1]["key"]
    flip_byte(folder, shard)
    flip_byte(folder, "runs/digits/log/00000000000000000003.json")
    report = answer("verify digits", code=1)
    assert [bad["key"] for bad in report["bad_objects"]] == [shard]
    assert [slot["slot"] for slot in report["damaged_slots"]] == [3]
    text = call("verify digits", code=1).stdout
    assert re.search(rf"BAD +version 2: .*{shard}", text)
    assert re.search(r"BAD +log slot 3", text)
    assert "Damaged: version 2." in text


def test_verify_of_one_version_leaves_the_others_alone_but_not_the_log(folder):
    flip_byte(folder, answer("show digits@2")["shards"][0]["key"])
    assert answer("verify digits@3")["good"] is True
    assert answer("verify digits@2", code=1)["good"] is False
    flip_byte(folder, "runs/digits/log/00000000000000000003.json")
    text = call("verify digits@3", code=1).stdout
    assert "no version is" in text


def test_on_a_terminal_progress_is_one_line_that_goes_away(folder):
    master, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", "from deployments.cli import main; main(['verify', 'digits'])"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=os.environ | {"PAWL_STORAGE": str(folder)},
        check=True,
    )
    os.close(terminal)
    told = os.read(master, 10_000)
    os.close(master)
    assert b"reading version 3" in told
    assert b"\n" not in told
    assert told.endswith(b"\r\x1b[K")
    assert b"reading" not in done.stdout


def test_verify_changes_no_file(folder):
    def everything():
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in folder.rglob("*")
            if path.is_file()
        }

    flip_byte(folder, answer("show digits@2")["shards"][0]["key"])
    before = everything()
    call("verify digits", code=1)
    assert everything() == before


def test_a_version_that_was_given_up_cannot_be_verified(folder):
    run = MadeUpRun(store=folder_store(folder))
    run.judge(2, 3)
    run.append(Retire(versions=(run.version(1).name,)))
    run.append(Condemn(versions=(run.version(1).name,)))
    assert "condemned" in refused("verify digits@1")
    assert "Given up, and not read: version 1." in call("verify digits").stdout


def test_an_empty_store_and_an_empty_run_say_so(tmp_path):
    store = folder_store(tmp_path / "new")
    where = f"--storage {tmp_path / 'new'}"
    assert "no run" in call("runs", where).stdout
    MadeUpRun(store=store)
    assert "no version yet" in call("versions digits", where).stdout
    assert answer("versions digits", where) == []


def test_the_option_goes_before_the_variable_and_both_before_the_default(
    folder, tmp_path, monkeypatch
):
    folder_store(tmp_path / "other")
    assert answer("runs", f"--storage {tmp_path / 'other'}") == []
    assert len(answer("runs")) == 1
    monkeypatch.delenv("PAWL_STORAGE")
    monkeypatch.chdir(tmp_path)
    assert "pawl-store" in refused("runs")
    folder.rename(tmp_path / "pawl-store")
    assert len(answer("runs")) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("versions Digits", "run name 'Digits' is not legal"),
        ("versions ../x", "is not legal"),
        ("versions other", "There is no run 'other'"),
        ("verify other", "There is no run 'other'"),
        ("verify Digits@1", "is not legal"),
        ("show other@1", "There is no run 'other'"),
        ("show digits", "names no version"),
        ("show digits@9", "no version '9'"),
        ("show digits@newest", "no version 'newest'"),
        ("show digits@3x", "names no version"),
        ("show digits@best --metric accuracy", "smaller or a larger 'accuracy' is better"),
        ("show digits@best --metric accuracy --mode max", "no version 'best'"),
        ("verify digits@9", "no version '9'"),
        ("runs --storage /nowhere/at/all", "There is no Pawl store at /nowhere/at/all"),
        ("runs --storage ftp://host/x", "does not know the storage scheme 'ftp'"),
        ("runs --storage s3://user:secret@bucket", "must hold no credentials"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_input_is_one_sentence_and_code_two(words, told):
    said = refused(words)
    assert told in said
    assert "secret@" not in said


def test_looking_at_a_place_without_store_creates_nothing(tmp_path):
    refused(f"runs --storage {tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


def test_a_newer_and_a_damaged_root_are_told_apart(folder):
    root = json.loads((folder / "pawl.json").read_text())
    path = folder / "pawl.json"
    path.chmod(0o644)
    path.write_text(json.dumps(root | {"format": 2}))
    assert "newer Pawl" in refused("runs")
    path.write_text("{")
    assert "damaged" in refused("runs", code=1)


def test_an_endpoint_that_nobody_serves_may_be_tried_again(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    started = time.monotonic()
    said = refused("runs --storage s3://bucket/prefix", code=75)
    assert time.monotonic() - started < 60
    assert "hush-hush" not in said


@pytest.mark.usefixtures("folder")
def test_a_wrong_call_is_explained_with_code_two():
    assert "There is no command 'list'." in call("list", code=2).stderr
    assert "Did you mean 'versions'?" in call("version", code=2).stderr
    assert "Missing argument" in call("versions", code=2).stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInputError, 2), (errors.StoreRefusedError, 2), (errors.NewerFormatError, 2),
        (errors.StateMismatchError, 2), (errors.RunNotFoundError, 2), (errors.VersionNotFoundError, 2),
        (errors.FenceLostError, 3), (errors.StoreUnavailableError, 75), (errors.TrainingFailedError, 75),
        (errors.FailureBudgetSpentError, 75), (errors.RunBusyError, 1), (errors.DigestMismatchError, 1),
        (errors.InternalError, 1),
    ],
)  # fmt: skip
def test_exit_codes_go_by_the_group_of_the_error(monkeypatch, error, code):
    @click.command()
    def raising():
        raise error("Something happened.")

    monkeypatch.setattr(pawl, "get_command", lambda *_: raising)
    said = refused("runs", code=code)
    assert "Something happened." in said
    assert ("bug in Pawl" in said) == (error is errors.InternalError)
    assert exit_code(error("x")) == code


def test_an_interrupted_command_ends_with_130(monkeypatch):
    @click.command()
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(pawl, "get_command", lambda *_: interrupted)
    assert call("runs", code=130).stderr == "Interrupted.\n"


def test_help_lists_every_command_and_the_exit_codes():
    text = call("--help").stdout
    listed = [line.split()[0] for line in text.splitlines() if re.match(r"  [a-z]+  +[A-Z]", line)]
    assert sorted(listed) == sorted(pawl.list_commands(click.Context(pawl)))
    assert "Exit codes" in text
    assert "..." not in text.partition("\n")[2]  # every line of it is whole
    for command in ("runs", "versions", "show", "verify"):
        assert "--json" in call(f"{command} --help").stdout
        assert "PAWL_STORAGE" in call(f"{command} --help").stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ve"], {"versions", "verify"}),
        (["promote", "--req"], {"--required"}),
        (["no-such-command", "ver"], {"versions", "verify"}),
    ],
)
def test_the_shell_completes_commands_and_options_and_meets_no_error(words, offered):
    env = {
        "_PAWL_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["pawl", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner().invoke(pawl, [], prog_name="pawl", env=env)
    assert {line.partition(",")[2] for line in result.stdout.splitlines()} == offered, result.output


@pytest.mark.parametrize("words", [*READ_COMMANDS, "--help", "train --help"])
@pytest.mark.usefixtures("folder")
def test_reading_loads_no_heavy_library(words):
    code = (
        "import sys\n"
        "from deployments.cli import main\n"
        f"try: main({words.split()!r})\n"
        "except SystemExit as end: print(end.code, *sorted(sys.modules), sep='\\n', file=sys.stderr)"
    )
    loaded = python(code).stderr.splitlines()
    assert "0" in loaded
    assert "deployments.cli" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.usefixtures("folder")
def test_searching_loads_tables_and_nothing_heavier():
    code = (
        "import sys\n"
        "from deployments.cli import main\n"
        "try: main(['search', 'step > 10'])\n"
        "except SystemExit as end: print(end.code, *sorted(sys.modules), sep='\\n', file=sys.stderr)"
    )
    loaded = set(python(code).stderr.splitlines())
    assert {"0", "pyarrow", "duckdb"} <= loaded
    assert not (HEAVY - TABLES) & loaded


@pytest.mark.parametrize("words", READ_COMMANDS[:4])
@pytest.mark.usefixtures("folder")
def test_reading_a_folder_takes_less_than_a_second(words):
    code = f"from deployments.cli import main; main({words.split()!r})"

    def cpu_seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(code).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # CPU time, because the program is measured and not how busy the machine is; it waits for a local folder alone.
    assert min(cpu_seconds() for _ in range(2)) < 1.0


@pytest.mark.usefixtures("folder")
def test_the_installed_command_answers_without_traceback():
    done = python("from deployments.cli import main; main(['versions', 'nope'])")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("folder")
def test_a_closed_pipe_is_no_traceback():
    code = f"{sys.executable} -c \"from deployments.cli import main; main(['versions', 'digits', '--json'])\""
    done = subprocess.run(  # noqa: S602 - the pipe is the point
        f"{code} | true", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
