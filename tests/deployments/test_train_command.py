"""`pawl train` up to the flow: what reaches it, and what is refused before Prefect is told of anything."""

import json
import os
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from deployments import server_libraries, train_command
from deployments.cli import pawl
from deployments.preflight import check_training
from ray_workers.config import Retention, Saving, Scaling, Validation
from ray_workers.store.errors import FenceLostError, StoreUnavailableError, TrainingFailedError

LOOP = "my_project.train:loop"


@pytest.fixture
def flow(monkeypatch, tmp_path):
    """The calls that would have run the flow; none of it starts."""
    calls: list[dict[str, Any]] = []

    def run_flow(parameters, *, retries, on_begin):
        del on_begin
        calls.append({**parameters, "retries": retries})
        return 0

    monkeypatch.setattr(train_command, "_run_flow", run_flow)
    monkeypatch.setattr(train_command, "check_training", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return calls


def call(*words, code=0):
    result = CliRunner().invoke(pawl, ["train", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*words, code=2):
    """The one sentence on stderr, when nothing was started."""
    result = call(*words, code=code)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    return result.stderr


def test_the_defaults(flow):
    call(LOOP)
    assert flow == [
        {
            "entrypoint": LOOP, "config": {}, "run": None, "storage": None, "scaling": Scaling(), "saving": Saving(),
            "validation": Validation(), "retention": Retention(), "resume": "auto", "takeover": False,
            "code_dir": None, "retries": None,
        }
    ]  # fmt: skip


def test_every_option_reaches_the_flow(flow):
    given = (
        "--run r --storage /s --workers 3 --cpus-per-worker 0.5 --gpus-per-worker 1 --ray-address auto "
        "--max-workers 5 --on-changed-workers reshard --every-steps 5 "
        "--every-epochs 2 --every-seconds 0.5 --interval fixed --grace 60 --time-limit 3600 --keep-last 4 "
        "--keep-every-steps 100 --keep-every-epochs 3 --keep-best 2 --metric accuracy --mode max --thin 1h/1d,1d "
        "-o saving.buffers=1 -o saving.staging_dir=/ram --option scaling.log_lines_per_second=2 "
        "--required verified --resume other@3 --takeover --code-dir /code --retries 0"
    )
    call(LOOP, *shlex.split(given))
    (got,) = flow
    assert got == {
        "entrypoint": LOOP, "config": {}, "run": "r", "storage": "/s",
        "scaling": Scaling(
            workers=3, max_workers=5, cpus_per_worker=0.5, gpus_per_worker=1, ray_address="auto",
            on_changed_workers="reshard", log_lines_per_second=2,
        ),
        "saving": Saving(
            every_steps=5, every_epochs=2, every_seconds=0.5, interval="fixed", grace_seconds=60, time_limit_seconds=3600,
            buffers=1, staging_dir="/ram",
        ),
        "validation": Validation(required="verified"),
        "retention": Retention(
            keep_last=4, keep_every_steps=100, keep_every_epochs=3, keep_best=2, metric="accuracy", mode="max", thin="1h/1d,1d"
        ),
        "resume": "other@3", "takeover": True, "code_dir": "/code", "retries": 0,
    }  # fmt: skip


def test_hyperparameters_are_json_or_text_and_override_the_file(flow, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"lr": 1, "name": "file"}))
    settings = ["lr=3e-4", "deep=[1, 2]", "flag=true", "text=a=b", "empty="]
    call(LOOP, "--config", "c.json", *(f"--set={text}" for text in settings))
    assert flow[0]["config"] == {
        "lr": 3e-4, "name": "file", "deep": [1, 2], "flag": True, "text": "a=b", "empty": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "0"], "value 0 for workers"),
        (["--workers", "-2"], "value -2 for workers"),
        (
            ["--max-workers", "4"],
            "Error: A range of workers changes their number while the run trains: allow it with",
        ),
        (
            ["--max-workers", "1", "--on-changed-workers", "reshard"],
            "The most workers (1) must not be fewer",
        ),
        (["--cpus-per-worker", "0"], "cpus_per_worker"),
        (["--every-steps", "0"], "value 0 for every_steps"),
        (["--every-epochs", "0"], "value 0 for every_epochs"),
        (["--every-seconds", "0"], "every_seconds"),
        (["--keep-last", "0"], "keep_last"),
        (["--keep-best", "1", "--metric", ""], "Error: keep_best needs the name of a metric.\n"),
        (["--keep-best", "1", "--metric", "accuracy"], "smaller or a larger 'accuracy' is better"),
        (["-o", "saving.buffers"], "not of the form GROUP.FIELD=VALUE"),
        (["-o", "buffers=1"], "There are no settings 'buffers'"),
        (["-o", "saving.ring=1"], "There is no field 'ring' of saving"),
        (["-o", "saving.buffers=none"], "value 'none' for buffers"),
        (["--required", "perfect"], "'perfect' for required"),
        (["--set", "lr"], "KEY=VALUE"),
        (["--set", "=3"], "KEY=VALUE"),
        (["--set", "lr=NaN"], "finite"),
        (["--config", "absent.json"], "absent.json cannot be read"),
        (["--config", "list.json"], "must hold a JSON object"),
        (["--config", "broken.json"], "broken.json cannot be read"),
    ],
)
def test_bad_values_are_refused_in_one_sentence_and_nothing_starts(flow, tmp_path, words, sentence):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    before = sorted(tmp_path.iterdir())
    message = refused(LOOP, *words)
    assert sentence in message
    assert flow == []
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("key", ["api_key", "db.password", "hf_token"])
def test_a_secret_never_reaches_prefect_where_parameters_are_shown(flow, key):
    message = refused(LOOP, "--set", f"{key}=hunter2")
    assert key in message
    assert "Prefect Secret block" in message
    assert "hunter2" not in message
    assert flow == []


@pytest.mark.parametrize(
    "words",
    [
        ("--storage", "s3://me:hunter2@bucket/x"), ("--storage", "s3://bucket/x?key=hunter2"),
        ("--ray-address", "http://me:hunter2@host:8265"), ("--ray-address", "ray://me:hunter2@host:10001"),
        ("--set", "hunter2"),
    ],
)  # fmt: skip
def test_a_secret_in_a_url_never_reaches_prefect_either(flow, words):
    assert "hunter2" not in refused(LOOP, *words)
    assert flow == []


@pytest.mark.parametrize(
    ("words", "named"), [([], "ENTRYPOINT"), ([LOOP, "--retries", "-1"], "--retries")]
)
def test_click_says_what_is_missing_or_out_of_range(flow, words, named):
    assert named in call(*words, code=2).stderr
    assert flow == []


# --- how it ends -----------------------------------------------------------------------------------------------------


class _State:
    """A flow run's final state, as much of it as the command looks at."""

    def __init__(self, name, message="", data=None):
        self.name, self.message, self._data = name, message, data

    def is_completed(self):
        return self.name == "Completed"

    def is_cancelled(self):
        return self.name == "Cancelled"

    def result(self, *, raise_on_failure):
        assert not raise_on_failure
        return self._data


@pytest.fixture
def ends_as(monkeypatch, tmp_path):
    """Let the flow end in this state, or raise this."""
    monkeypatch.chdir(tmp_path)

    def prepare(end):
        class Flow:
            def with_options(self, **_):
                return self

            def on_running(self, hook):
                self.begun = hook

            def __call__(self, *, return_state, **_):
                assert return_state
                self.begun(self, SimpleNamespace(id=UUID(int=7)), None)
                if isinstance(end, BaseException):
                    raise end
                return end

        monkeypatch.setattr("flows.train.train", Flow())
        monkeypatch.setattr(train_command, "start_prefects_server", lambda: None)
        monkeypatch.setattr(train_command, "check_training", lambda _: None)

    return prepare


@pytest.mark.parametrize("words", [[], ["--retries", "1"]])
def test_a_completed_run_says_so_and_exits_0(ends_as, words):
    ends_as(_State("Completed", "Run 'digits' is finished."))
    assert call(LOOP, *words).stdout == "Run 'digits' is finished.\n"
    ends_as(_State("Completed"))
    assert call(LOOP, *words).stdout == "Training completed.\n"


def test_a_lost_fence_exits_3(ends_as):
    ends_as(_State("Cancelled", "another attempt took over"))
    assert call(LOOP, code=3).stderr == "Cancelled: another attempt took over\n"


@pytest.mark.parametrize(
    ("error", "code"), [(TrainingFailedError("the loop raised"), 75), (FenceLostError("lost"), 3)]
)
def test_an_error_of_ours_is_one_sentence_with_its_exit_code(ends_as, error, code):
    ends_as(_State("Failed", "Flow run encountered an exception", error))
    assert call(LOOP, code=code).stderr == f"Error: {error.message}\n"


def test_any_other_failure_exits_1_and_a_crash_says_how_to_resume(ends_as):
    ends_as(_State("Failed", "boom", ValueError("boom")))
    assert call(LOOP, code=1).stderr == "Failed: boom\n"
    ends_as(_State("Crashed", "killed"))
    assert "To resume:" in call(LOOP, code=1).stderr


def test_ctrl_c_prints_the_command_that_resumes_and_exits_130(ends_as, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pawl", "train", LOOP, "--set", "name=two words"])
    ends_as(KeyboardInterrupt())
    message = call(LOOP, code=130).stderr
    assert "What was committed is kept" in message
    assert f"pawl train {LOOP} --set 'name=two words'" in message


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("--resume never --run r", "--run r"), ("--run r --resume=r@3", "--run r"),
        ("--resume never", f"--run {UUID(int=7)}"), ("", f"--run {UUID(int=7)}"),
        ("--run r --resume other@3", "--run r --resume other@3"), ("--run r --resume auto", "--run r --resume auto"),
    ],
)  # fmt: skip
def test_the_printed_line_goes_on_and_does_not_go_back_once_more(
    ends_as, monkeypatch, words, printed
):
    monkeypatch.setattr("sys.argv", ["pawl", "train", LOOP, *words.split()])
    ends_as(KeyboardInterrupt())
    message = call(LOOP, *words.split(), code=130).stderr
    assert f"\n    pawl train {LOOP} {printed}".rstrip() + "\n" in message


def test_sigterm_prints_it_too_and_exits_143(ends_as):
    ends_as(_Terminated())
    before = signal.getsignal(signal.SIGTERM)
    assert "To resume:" in call(LOOP, code=143).stderr
    assert signal.getsignal(signal.SIGTERM) is before


class _Terminated(SystemExit):
    """What a flow does to which Prefect gave SIGTERM back; raised by the handler that stands then."""

    def __init__(self):
        with pytest.raises(SystemExit) as raised, train_command._sigterm_exits():
            os.kill(os.getpid(), signal.SIGTERM)
        super().__init__(raised.value.code)


def test_prefects_home_is_made_if_it_is_not_there(flow, monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "deep" / "home"))
    call(LOOP)
    assert Path(tmp_path / "deep" / "home").is_dir()


def test_a_fastapi_that_prefect_cannot_use_is_named(flow, monkeypatch):
    monkeypatch.setattr(server_libraries, "version", lambda _: "0.151.0")
    assert "fastapi<0.151" in refused(LOOP)
    assert flow == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nosuch"], "not of the form module:function"),
        (["no_such_module:loop"], "a module that is not found"),
        (["tiny_loop:nope"], "has no function 'nope'"),
        (["tiny_loop:loop", "--run", "Bad Name"], "not legal"),
        (["tiny_loop:loop", "--resume", "foo"], "names no version"),
        (["tiny_loop:loop", "--resume", "digits@3"], "There is no Pawl store"),
        (["tiny_loop:loop", "--check", "no_such_module:f"], "The check"),
        (["tiny_loop:loop", "--probe", "no_such_module:f"], "The probe"),
        (["tiny_loop:loop", "--storage", "ftp://x"], "does not know the storage scheme"),
        (["tiny_loop:loop", "--code-dir", "nowhere"], "is not a folder"),
    ],
)
def test_what_the_flow_would_refuse_is_refused_before_prefect_starts(
    monkeypatch, tmp_path, words, told
):
    monkeypatch.setattr(train_command, "prepare_prefect", lambda: pytest.fail("Prefect starts"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tiny_loop.py").write_text("def loop(config): pass\n")
    assert told in refused(*words)


def test_a_store_behind_a_block_and_one_that_does_not_answer_are_left_to_the_flow(
    flow, monkeypatch, tmp_path
):
    monkeypatch.setattr(train_command, "check_training", check_training)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tiny_loop.py").write_text("def loop(config): pass\n")
    words = ["tiny_loop:loop", "--resume", "digits@3", "--storage"]
    call(*words, "pawl-storage/main")

    def silent(*_, **__):
        raise StoreUnavailableError("no answer")

    monkeypatch.setattr("deployments.preflight.named_version", silent)
    call(*words, str(tmp_path))
    assert len(flow) == 2
