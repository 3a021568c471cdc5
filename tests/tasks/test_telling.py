"""Who watches over a training never waits for whoever shows it, and what is shown comes in order."""

from __future__ import annotations

import contextvars
import threading
import time

import pytest

from ray_workers.messages import PawlEvent
from tasks import telling
from tasks.telling import Telling

ASKED = contextvars.ContextVar("ASKED", default="nobody")


def event(number: int) -> PawlEvent:
    return PawlEvent(kind="committed", message=str(number), at="")


def test_all_are_told_in_order_in_the_context_of_the_flow():
    told: list[tuple[str, str]] = []
    ASKED.set("the flow")
    with Telling(lambda one: told.append((one.message, ASKED.get()))) as tells:
        threads = [threading.Thread(target=tells.put, args=(event(n),)) for n in range(50)]
        for thread in threads:
            thread.start()
            thread.join()
    assert told == [(str(n), "the flow") for n in range(50)]


def test_a_server_that_is_silent_keeps_nobody_waiting_and_not_the_end_either(monkeypatch, caplog):
    monkeypatch.setattr(telling, "_FLUSH_S", 0.2)
    silent, told = threading.Event(), list[str]()

    def tell(one: PawlEvent) -> None:
        silent.wait(120)
        told.append(one.message)

    began = time.monotonic()
    with Telling(tell, most=10) as tells:
        for number in range(100):
            tells.put(event(number))
    assert time.monotonic() - began < 30
    assert "events were not shown" in caplog.text
    assert told == []
    silent.set()
    deadline = time.monotonic() + 60
    while not told and time.monotonic() < deadline:
        time.sleep(0.005)
    assert (
        len(told) == 1
    )  # what hung in the server; what waited behind it is not told after the end


def test_an_end_that_has_little_time_waits_less(monkeypatch):
    monkeypatch.setattr(telling, "_FLUSH_S", 3600.0)
    monkeypatch.setattr(telling, "_FLUSH_ENDED_S", 0.05)
    silent = threading.Event()

    def tell(_: PawlEvent) -> None:
        silent.wait(120)

    def interrupted() -> None:
        with Telling(tell) as tells:
            tells.put(event(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    silent.set()


def test_what_cannot_be_shown_keeps_nothing_after_it_from_being(caplog):
    told: list[str] = []

    def tell(one: PawlEvent) -> None:
        if one.message == "1":
            raise ConnectionError("no server")
        told.append(one.message)

    with Telling(tell) as tells:
        for number in range(3):
            tells.put(event(number))
    assert told == ["0", "2"]
    assert "could not be shown: no server" in caplog.text
