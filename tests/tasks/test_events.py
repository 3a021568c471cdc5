from __future__ import annotations

from uuid import uuid4

import pytest

from ray_workers.messages import PawlEvent
from tasks import events
from tasks.events import announce, announce_schedule, event_name, tell_prefect
from tasks.run_identity import RunIdentity

ME = RunIdentity(flow_run_id="f-1", name="brave-owl", run_count=2)


@pytest.fixture
def emitted(monkeypatch):
    found = []
    monkeypatch.setattr(events, "emit_event", lambda **event: found.append(event))
    return found


def event(kind: str, **details: object) -> PawlEvent:
    return PawlEvent(kind=kind, message="what happened", at="now", details=details)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (event("committed"), "pawl.version.committed"),
        (event("verdict", rung="sound", reason=None), "pawl.version.validated"),
        (event("verdict", rung="quarantined", reason="NaN"), "pawl.version.quarantined"),
        (event("verdict", rung="committed", reason="timed out"), "pawl.version.validated"),
        (event("dropped"), "pawl.save.dropped"),
        (event("budget_spent"), "pawl.save.budget_spent"),
        (event("fence_lost"), "pawl.attempt.overtaken"),
        (event("actor_restarted"), "pawl.actor.restarted"),
        (event("validator_lost"), "pawl.validator.lost"),
        (event("supervisor"), None),
    ],
)
def test_the_public_names(told, name):
    assert event_name(told) == name


def test_an_event_names_run_version_and_flow_run_so_that_automations_can_match_them(emitted):
    tell_prefect(event("committed", number=3, step=15, metrics={"loss": 0.5}), "digits", ME)
    (sent,) = emitted
    assert sent["resource"] == {
        "prefect.resource.id": "pawl.run.digits",
        "prefect.resource.name": "digits",
        "pawl.number": "3",
        "pawl.step": "15",
    }
    assert sent["related"][0]["prefect.resource.id"] == "prefect.flow-run.f-1"
    assert sent["related"][0]["prefect.resource.role"] == "flow-run"
    assert sent["payload"]["message"] == "what happened"
    assert sent["payload"]["metrics"] == {"loss": 0.5}


def test_what_has_no_public_name_is_not_sent(emitted):
    tell_prefect(event("supervisor"), "digits", ME)
    assert emitted == []


def test_a_failing_view_ends_nothing(monkeypatch, caplog):
    def broken(**_: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(events, "emit_event", broken)
    announce("pawl.run.resumed", "digits", ME, {})
    assert "pawl.run.resumed could not be sent" in caplog.text


def test_the_event_that_the_scheduler_owes_has_the_id_that_the_others_follow(emitted, monkeypatch):
    owed = uuid4()
    monkeypatch.setattr(events, "unannounced_start", lambda _: owed)
    announce_schedule("digits", ME)
    (sent,) = emitted
    assert (sent["event"], sent["id"]) == ("pawl.run.scheduled", owed)


def test_a_run_that_a_person_started_owes_no_event(emitted, monkeypatch):
    monkeypatch.setattr(events, "unannounced_start", lambda _: None)
    announce_schedule("digits", ME)
    assert emitted == []


def test_a_server_that_does_not_answer_ends_nothing_either(emitted, monkeypatch):
    def broken(_: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(events, "unannounced_start", broken)
    announce_schedule("digits", ME)
    assert emitted == []
