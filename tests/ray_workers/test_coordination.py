"""What a version will never have is said to the coordinator that lives in the end, not to the one that died."""

from __future__ import annotations

import threading

import pytest

from ray_workers.coordination import Coordination, Coordinator
from ray_workers.messages import DriverNews, StopRequest
from ray_workers.policies.failure_rate import PRIOR
from ray_workers.store.errors import StoreUnavailableError

DEAD = Coordinator(actor=None, fence=2)
ALIVE = Coordinator(actor=None, fence=6)


def hears_of(told: list[int]):
    def hears(coordinator: Coordinator) -> bool:
        told.append(coordinator.fence)
        return coordinator.fence == ALIVE.fence

    return hears


def test_a_message_for_a_dead_coordinator_goes_to_its_successor() -> None:
    coordination, told, answers = Coordination(), list[int](), list[bool]()
    coordination.attach(DEAD)
    teller = threading.Thread(target=lambda: answers.append(coordination.tell(hears_of(told))))
    teller.start()
    coordination.attach(DEAD)  # said again, it is still the dead one
    coordination.attach(ALIVE)
    teller.join(60)
    assert answers == [True]
    assert told in ([2, 6], [6])  # the successor may have been there at once
    assert told.count(2) <= 1


def test_one_that_is_known_to_be_dead_is_not_asked() -> None:
    coordination, told = Coordination(patience_s=0.1), list[int]()
    coordination.attach(DEAD)
    coordination.bury(DEAD)
    assert not coordination.tell(hears_of(told))
    with pytest.raises(StoreUnavailableError):
        coordination.current()
    coordination.attach(ALIVE)
    assert coordination.tell(hears_of(told))
    assert told == [6]
    assert coordination.current() is ALIVE


def test_who_asks_while_the_last_one_is_dead_gets_its_successor() -> None:
    coordination, found = Coordination(), list[Coordinator]()
    coordination.attach(DEAD)
    coordination.bury(DEAD)
    asker = threading.Thread(target=lambda: found.append(coordination.current()))
    asker.start()
    coordination.attach(DEAD)  # the driver does not know yet
    coordination.attach(ALIVE)
    asker.join(60)
    assert found == [ALIVE]


def test_nobody_hears_when_no_successor_comes() -> None:
    coordination, told = Coordination(patience_s=0.1), list[int]()
    coordination.attach(DEAD)
    assert not coordination.tell(hears_of(told))
    assert told == [2]


def test_without_a_coordinator_the_agent_says_so() -> None:
    with pytest.raises(StoreUnavailableError, match="not told who coordinates"):
        Coordination(patience_s=0.05).current()


def test_the_grace_of_a_stop_request_runs_from_when_it_was_told() -> None:
    coordination = Coordination()
    assert coordination.news() == DriverNews()
    stop = StopRequest(reason="interrupted", grace_s=1000.0)
    coordination.attach(Coordinator(actor=None, fence=2, stop=stop))
    asked = coordination.news().stop
    assert asked is not None
    assert 0 < asked.grace_s <= 1000
    assert coordination.current().fence == 2


def test_the_newest_stop_request_is_passed_on() -> None:
    coordination = Coordination()
    for grace_s in (600.0, 6.0):
        stop = StopRequest(reason="interrupted", grace_s=grace_s)
        coordination.attach(Coordinator(actor=None, fence=2, stop=stop))
    asked = coordination.news().stop
    assert asked is not None
    assert asked.grace_s <= 6


def test_that_versions_wait_for_a_verdict_is_passed_on_until_they_do_not() -> None:
    coordination = Coordination()
    for validating in (True, False):
        coordination.attach(Coordinator(actor=None, fence=2, validating=validating, rate=PRIOR))
        assert coordination.news() == DriverNews(validating=validating, rate=PRIOR)
