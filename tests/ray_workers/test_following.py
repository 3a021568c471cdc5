"""Following a Ray job on a made-up server: what is told, what is raised, what is handed over."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from ray_workers.following import LETTER, Followed, Follower, letter_name, stop_and_wait
from ray_workers.job_lines import JobLine, LineReader, LineWriter
from ray_workers.job_spec import open_letter
from ray_workers.messages import PawlEvent
from ray_workers.sealed import LetterBox
from ray_workers.store.credentials import S3Credentials
from ray_workers.store.errors import (
    ClusterUnavailableError,
    FenceLostError,
    InvalidInputError,
    TrainingFailedError,
)

KEYS = S3Credentials(access_key_id="id", secret_access_key="secret")
REFUSED = InvalidInputError("The Ray cluster asks for a token.")


class Server:
    """A job server that answers what it was told to."""

    def __init__(self, *statuses: str | Exception | None) -> None:
        self.text = io.StringIO()
        self.lines = LineWriter(self.text)
        self.statuses = list(statuses)
        self.submitted: dict[str, Mapping[str, str]] = {}
        self.stopped: list[str] = []
        self._reader = LineReader()

    def submit(self, name: str, _: str, __: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        self.submitted[name] = metadata

    def status(self, _: str) -> str | None:
        answer = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def metadata(self, _: str) -> Mapping[str, str]:
        return {}

    def stop(self, name: str) -> None:
        self.stopped.append(name)

    @contextmanager
    def log(self, _: str) -> Iterator[Server]:
        yield self

    def take(self, _: float) -> list[JobLine]:
        self._reader.begin_again()
        return list(self._reader.feed(self.text.getvalue()))


class SlowLog(Server):
    """Gives one line at a time, which takes longer in all than the last lines of an ended job are waited for."""

    pause_s = 0.05

    def take(self, _: float) -> list[JobLine]:
        self._waiting = getattr(self, "_waiting", None) or super().take(0)
        time.sleep(self.pause_s)
        return [self._waiting.pop(0)] if self._waiting else []


def follow(
    server: Server, *, still_ours: Any = lambda: None, last_lines_s: float = 0
) -> list[PawlEvent]:
    told: list[PawlEvent] = []
    job = Followed(
        name="job",
        keys=KEYS,
        on_event=told.append,
        still_ours=still_ours,
        patience_s=0.05,
        ask_every_s=0,
        last_lines_s=last_lines_s,
    )
    Follower(server, job).follow()
    return told


def test_events_are_told_once_and_the_end_is_the_end() -> None:
    server = Server("RUNNING")
    event = PawlEvent(kind="committed", message="Version 1", at="now")
    server.lines.event(event)
    server.lines.end(None)
    assert follow(server) == [event]


def test_what_ended_the_training_is_raised_as_it_was() -> None:
    server = Server("FAILED")
    server.lines.end(FenceLostError("overtaken", fence=2))
    with pytest.raises(FenceLostError, match="overtaken"):
        follow(server)


def test_the_keys_go_to_the_job_that_asks_and_are_seen_by_nobody_else() -> None:
    server, box = Server("RUNNING"), LetterBox()
    server.lines.letter_box(box.public)
    server.lines.end(None)
    follow(server)
    letter = server.submitted[letter_name("job")][LETTER]
    assert open_letter(box.open(letter)) == KEYS
    assert "secret" not in str(server.submitted)


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_a_driver_that_died_without_a_word_is_a_failure(status: str) -> None:
    with pytest.raises(TrainingFailedError, match="without a last word"):
        follow(Server("RUNNING", status))


def test_a_driver_that_exited_with_nothing_wrong_has_trained_to_the_end() -> None:
    assert follow(Server("RUNNING", "SUCCEEDED")) == []


def test_a_long_log_of_a_job_that_has_ended_is_read_to_its_end() -> None:
    server = SlowLog("SUCCEEDED")
    events = [PawlEvent(kind="committed", message=f"Version {n}", at="now") for n in range(8)]
    for event in events:
        server.lines.event(event)
    server.lines.end(None)
    assert follow(server, last_lines_s=4 * SlowLog.pause_s) == events


def test_a_head_that_was_restarted_has_forgotten_the_job() -> None:
    with pytest.raises(TrainingFailedError, match="does not know job"):
        follow(Server("RUNNING", None))


def test_a_silent_server_is_waited_for_and_not_for_ever() -> None:
    silent = ClusterUnavailableError("no answer")
    server = Server(silent, silent, "RUNNING", "FAILED")
    with pytest.raises(TrainingFailedError):
        follow(server)
    with pytest.raises(ClusterUnavailableError):
        follow(Server(silent))


def test_a_server_that_refuses_the_token_it_took_is_waited_for_like_a_silent_one() -> None:
    server = Server("RUNNING", REFUSED, REFUSED, "RUNNING", "FAILED")
    with pytest.raises(TrainingFailedError, match="without a last word"):
        follow(server)
    with pytest.raises(ClusterUnavailableError, match=r"refuses it now: .* asks for a token"):
        follow(Server("RUNNING", REFUSED))


def test_a_token_that_was_never_taken_is_said_at_once() -> None:
    with pytest.raises(InvalidInputError):
        follow(Server(REFUSED, "FAILED"))


def test_keys_that_are_refused_by_the_server_of_the_log_may_be_handed_over_later() -> None:
    class Refusing(Server):
        def submit(self, *_: Any) -> None:
            raise REFUSED

    server = Refusing("RUNNING")
    server.lines.letter_box(LetterBox().public)
    with pytest.raises(ClusterUnavailableError, match="asks for a token"):
        follow(server)


def test_an_owner_who_lost_the_run_follows_no_longer() -> None:
    def lost() -> None:
        raise FenceLostError("another try owns it")

    with pytest.raises(FenceLostError):
        follow(Server("RUNNING"), still_ours=lost)


def test_stopping_waits_for_the_end() -> None:
    server = Server("RUNNING", "STOPPED")
    assert stop_and_wait(server, "job", 30)
    assert server.stopped == ["job"]
    assert not stop_and_wait(Server("RUNNING"), "job", 0)
    assert not stop_and_wait(Server(ClusterUnavailableError("away")), "job", 30)
