"""What a rank prints and logs is taken once, with its level, whoever writes it where, and bounded."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest

from ray_workers.messages import LogLine
from ray_workers.rank_logs import RankLogs

LOGGER = logging.getLogger("a.users.own")


class Taken(list[LogLine]):
    def texts(self) -> list[str]:
        return [line.text for line in self]


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture(autouse=True)
def _quiet_root() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.setLevel(logging.INFO)
    yield
    assert [h for h in root.handlers if h not in before] == []
    root.setLevel(level)


@contextmanager
def logs(taken: Taken, per_second: float = 1000) -> Iterator[None]:
    """What Prefect or Ray hung on these loggers, if an earlier test imported them, is not what is tested here."""
    shared = [logging.getLogger(name) for name in ("", "ray", "ray.train")]
    with ExitStack() as alone:
        for logger in shared:
            alone.enter_context(mock.patch.object(logger, "handlers", []))
        with RankLogs(3, taken.extend, per_second=per_second):
            yield


def test_prints_records_and_writes_arrive_with_rank_and_level(
    taken: Taken, capsys: pytest.CaptureFixture[str]
) -> None:
    with logs(taken):
        print("loss", 0.5)  # noqa: T201
        LOGGER.warning("careful with %s", "that")
        sys.stderr.write("half a ")
        sys.stderr.write("line\n")
        LOGGER.debug("not enabled")
    assert [(line.rank, line.level, line.text) for line in taken] == [
        (3, logging.INFO, "loss 0.5"),
        (3, logging.WARNING, "careful with that"),
        (3, logging.INFO, "half a line"),
    ]
    assert capsys.readouterr().out == "loss 0.5\n"  # it went where it went before


def test_a_record_that_a_stream_handler_writes_too_is_taken_once(taken: Taken) -> None:
    with logs(taken):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s | %(message)s"))
        logging.getLogger().addHandler(handler)
        LOGGER.error("one\ntwo")
        logging.getLogger().removeHandler(handler)
        LOGGER.addHandler(handler)  # its own logger's handler is heard first
        LOGGER.error("three")
        LOGGER.removeHandler(handler)
        print("four")  # noqa: T201
    assert [text.removeprefix("ERROR | ") for text in taken.texts()] == [
        "one",
        "two",
        "three",
        "four",
    ]


@pytest.mark.parametrize("propagate", [True, False])
def test_what_ray_says_of_itself_is_left_out_unless_it_warns(
    taken: Taken, monkeypatch: pytest.MonkeyPatch, *, propagate: bool
) -> None:
    framework = logging.getLogger("ray.train.somewhere")
    framework.setLevel(logging.INFO)
    monkeypatch.setattr(framework, "propagate", propagate)
    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("ray.train"), "propagate", True)
    with logs(taken):
        handler = logging.StreamHandler(sys.stderr)
        end = logging.getLogger() if propagate else framework
        end.addHandler(handler)
        framework.info("reporting a result")
        framework.warning("a worker is slow")
        end.removeHandler(handler)
    assert taken.texts() == ["a worker is slow"]


def test_a_progress_bar_shows_its_last_state_alone(taken: Taken) -> None:
    with logs(taken):
        for share in (10, 50, 100):
            sys.stderr.write(f"\r{share}%")
        sys.stderr.write("\n")
    assert taken.texts() == ["100%"]


def test_too_many_lines_are_counted_and_said(taken: Taken) -> None:
    with logs(taken, per_second=2):
        for number in range(500):
            print(number)  # noqa: T201
    said = [line for line in taken if "left out" in line.text]
    kept = [line for line in taken if line not in said]
    assert said
    assert all(line.level == logging.WARNING for line in said)
    left_out = sum(int(line.text.split()[0]) for line in said)
    assert left_out + len(kept) == 500
    assert len(kept) < 100


def test_what_ended_the_loop_is_told_with_its_traceback_however_full_the_budget(
    taken: Taken,
) -> None:
    def loop() -> None:
        for number in range(100):
            print(number)  # noqa: T201
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"), logs(taken, per_second=1):
        loop()
    errors = [line.text for line in taken if line.level == logging.ERROR]
    assert errors[0].startswith("Traceback")
    assert errors[-1] == "ValueError: planted"


def test_a_rate_of_none_takes_nothing_and_touches_nothing(taken: Taken) -> None:
    write = sys.stdout.write
    with logs(taken, per_second=0):
        assert sys.stdout.write == write
        print("not taken")  # noqa: T201
    assert taken == []


def test_nobody_listening_ends_no_training() -> None:
    def send(_: list[LogLine]) -> None:
        raise ConnectionError("the agent is gone")

    with warnings.catch_warnings(), RankLogs(0, send, per_second=10):
        print("into the void")  # noqa: T201


def test_a_message_that_does_not_fit_its_arguments_ends_no_training(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with logs(taken):
        LOGGER.warning("%d", "no number")
    assert taken == []
