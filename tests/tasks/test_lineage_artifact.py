"""One artifact a flow run, written again in place: by later tries too, and after somebody deleted it."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError

from tasks import lineage
from tasks.lineage import LineagePublisher
from tasks.lineage_page import LineagePage

PAGE = LineagePage(headline="three versions", markdown="# digits")


def status_error(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("PATCH", "http://prefect/artifacts/1")
    return PrefectHTTPStatusError(
        "refused", request=request, response=httpx.Response(status, request=request)
    )


class Server:
    """As much of Prefect's client as writes artifacts."""

    def __init__(self) -> None:
        self.pages: dict[UUID, str] = {}
        self.searches = 0

    def read_artifacts(self, **_: object) -> list[Any]:
        self.searches += 1
        return [SimpleNamespace(id=known) for known in self.pages]

    def create_artifact(self, made: Any) -> Any:
        self.pages[number := uuid4()] = made.data
        return SimpleNamespace(id=number)

    def update_artifact(self, number: UUID, change: Any) -> None:
        if number not in self.pages:
            raise status_error(404)
        self.pages[number] = change.data


@pytest.fixture
def server(monkeypatch):
    found = Server()

    @contextmanager
    def client(**_: object):
        yield found

    monkeypatch.setattr(lineage, "get_client", client)
    return found


def publisher() -> LineagePublisher:
    identity = SimpleNamespace(flow_run_id=str(UUID(int=7)))
    attempt: Any = SimpleNamespace(request=SimpleNamespace(run="digits", identity=identity))
    return LineagePublisher(attempt)


def test_it_is_looked_for_once_and_then_written_in_place(server):
    first = publisher()
    for _ in range(3):
        first._write(PAGE)
    assert len(server.pages) == server.searches == 1
    publisher()._write(PAGE)  # the next try
    assert len(server.pages) == 1


def test_one_that_was_deleted_is_made_anew(server):
    first = publisher()
    first._write(PAGE)
    server.pages.clear()
    for _ in range(2):
        first._write(PAGE)
    assert list(server.pages.values()) == ["# digits"]


def test_a_server_that_refuses_is_not_one_that_forgot(server, monkeypatch):
    first = publisher()
    first._write(PAGE)

    def refused(*_: object) -> None:
        raise status_error(503)

    monkeypatch.setattr(server, "update_artifact", refused)
    with pytest.raises(PrefectHTTPStatusError):
        first._write(PAGE)
    assert len(server.pages) == 1
