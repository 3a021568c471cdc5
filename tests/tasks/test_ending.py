"""What an attempt's end makes of its flow run's state, and of bytes that a worker called damaged."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import Abort, TerminationSignal

from ray_workers.config import Scaling
from ray_workers.store.attempts import end_attempt, start_attempt
from ray_workers.store.errors import (
    DamageError,
    DigestMismatchError,
    InvalidInputError,
    StoreUnavailableError,
    TrainingFailedError,
)
from tasks import ending, run_identity
from tasks.run_identity import RunIdentity
from tests.support.factories import MadeUpRun, flip_byte, folder_store


@pytest.fixture
def resumed(tmp_path, monkeypatch):
    """A run whose open attempt resumed from version 1."""
    monkeypatch.setattr(ending, "get_run_logger", lambda: logging.getLogger("test"))
    made = MadeUpRun(store=folder_store(tmp_path), name="run")
    made.start()
    made.commit(10)
    made.judge(1)
    made.end("failed")
    made.start(1)
    return made


def quarantine(made: MadeUpRun, error: Exception) -> str:
    """The rung of version 1 after an attempt's end by `error`."""
    target = SimpleNamespace(open=lambda: SimpleNamespace(store=made.store))
    attempt: Any = SimpleNamespace(request=SimpleNamespace(target=target, run=made.name), by={})
    ending._quarantine(attempt, error)
    return made.version(1).rung


def test_what_does_not_hold_here_either_is_quarantined_for_what_was_found_here(tmp_path, resumed):
    key = resumed.shard_keys(1)[0]
    flip_byte(tmp_path, key)
    assert quarantine(resumed, DamageError("one worker's words")) == "quarantined"
    assert resumed.version(1).bad_bytes
    assert key in resumed.version(1).quarantine


def test_the_word_of_one_machine_quarantines_nothing_that_holds_here(resumed, caplog):
    met = DigestMismatchError("x is damaged", key=resumed.shard_keys(1)[0])
    assert quarantine(resumed, met) == "sound"
    assert "All bytes of version 1 hold here" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        TrainingFailedError("a rank could not read it"),
        DigestMismatchError("a data set's", key="data/part-0"),
    ],
)
def test_what_says_nothing_about_the_version_is_not_looked_into(tmp_path, resumed, error):
    flip_byte(tmp_path, resumed.shard_keys(1)[0])
    assert quarantine(resumed, error) == "sound"


def test_a_store_that_is_away_then_does_not_hide_what_ended_the_attempt(
    resumed, monkeypatch, caplog
):
    def away(*_: Any) -> Any:
        raise StoreUnavailableError("the store is away")

    monkeypatch.setattr(ending, "verify_bytes", away)
    assert quarantine(resumed, DamageError("bad")) == "sound"
    assert "the store is away" in caplog.text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TerminationSignal(15), "SIGTERM (TerminationSignal)"),
        (SystemExit(143), "SIGTERM (SystemExit)"),
        (CancelledError(), "ended by Prefect (CancelledError)"),
        (KeyboardInterrupt(), "Ctrl-C"),
    ],
)
def test_what_ended_it_is_named(monkeypatch, error, reason):
    monkeypatch.setattr(ending, "is_being_cancelled", lambda _: False)
    attempt: Any = SimpleNamespace(request=SimpleNamespace(identity=None))
    assert ending._outcome(attempt, error) == ("interrupted", reason)


# --- a later try of the same flow run --------------------------------------------------------------------------------


@pytest.fixture
def first_try(tmp_path, monkeypatch):
    """The first try of flow run `flow-1`, whose process is told to go, without views."""
    monkeypatch.setattr(ending, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(ending, "is_being_cancelled", lambda _: False)
    monkeypatch.setattr(ending, "announce", lambda *_: None)
    monkeypatch.setattr(ending, "LineagePublisher", lambda _: SimpleNamespace(publish=lambda: None))
    made = MadeUpRun(store=folder_store(tmp_path), name="run")
    made.start()
    target = SimpleNamespace(open=lambda: SimpleNamespace(store=made.store))
    identity = RunIdentity(flow_run_id="flow-1", name="owl", run_count=1)
    request = SimpleNamespace(target=target, run=made.name, identity=identity, scaling=Scaling())
    return SimpleNamespace(
        request=request, made=made, finished=None, overtaken=None, fence=made.fence, run_id="0" * 32, by={},
    )  # fmt: skip


def end_by(attempt: Any, error: BaseException) -> None:
    with ending.ended_properly(attempt):
        raise error


@pytest.mark.parametrize("over", [False, True], ids=["the later try trains", "it is over"])
@pytest.mark.parametrize("error", [TerminationSignal(15), TrainingFailedError("its workers fell")])
def test_a_later_try_of_the_flow_run_keeps_its_state(first_try, caplog, error, over):
    log = first_try.made.log
    fence = start_attempt(log, flow_run_id="flow-1", run_count=2)
    if over:
        end_attempt(log, fence, "completed")
    with pytest.raises(Abort, match="belongs to try 2"):
        end_by(first_try, error)
    assert "leaves the flow run's state to it" in caplog.text
    assert log.refresh().attempts[fence].outcome == ("completed" if over else None)


def test_another_flow_runs_attempt_leaves_the_own_state_to_this_process(first_try):
    start_attempt(first_try.made.log, flow_run_id="another", run_count=7)
    with pytest.raises(TerminationSignal):
        end_by(first_try, TerminationSignal(15))


def test_the_newest_try_tells_prefect_its_end_itself(first_try):
    with pytest.raises(TerminationSignal):
        end_by(first_try, TerminationSignal(15))
    ended = first_try.made.log.refresh().attempts[first_try.fence]
    assert (ended.outcome, ended.reason) == ("interrupted", "SIGTERM (TerminationSignal)")


def test_where_the_log_cannot_be_read_this_process_tells_its_end(first_try):
    def away() -> Any:
        raise StoreUnavailableError("the store is away")

    start_attempt(first_try.made.log, flow_run_id="flow-1", run_count=2)
    first_try.request.target.open = away
    with pytest.raises(TerminationSignal):
        end_by(first_try, TerminationSignal(15))


def test_what_ended_it_is_told_also_if_its_retries_cannot_be_forbidden(first_try, monkeypatch):
    def away(**_: object) -> None:
        raise RuntimeError("no connection")

    monkeypatch.setattr(run_identity, "get_client", away)
    monkeypatch.setattr(run_identity, "get_run_logger", lambda: logging.getLogger("test"))
    with pytest.raises(InvalidInputError, match="no such loop"):
        end_by(first_try, InvalidInputError("no such loop"))
