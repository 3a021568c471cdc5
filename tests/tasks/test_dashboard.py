"""Health's alert: everything that misses the objective is an event, and fails the flow if that was wished."""

from __future__ import annotations

import pytest

import flows.health
from ray_workers.health_facts import look_at_root
from ray_workers.health_values import Objective
from ray_workers.store.memory import MemoryStore
from tasks import dashboard
from tasks.dashboard import MISSED_EVENT, alert_missed
from tests.support.factories import MadeUpRun


@pytest.fixture
def emitted(monkeypatch):
    found = []
    monkeypatch.setattr(dashboard, "emit_event", lambda event, **more: found.append((event, more)))
    return found


@pytest.fixture
def run():
    made = MadeUpRun(store=MemoryStore())
    made.start()
    made.commit(10)
    made.end()
    return made


def failed(run):
    other = MadeUpRun(store=run.store, name="dead")
    other.start()
    other.commit(10)
    other.end("failed", "disk full")
    return look_at_root(run.store, Objective())


def unreadable(run):
    run.store.put("runs/Bad/log/00000000000000000001.json", b"x")
    return look_at_root(run.store, Objective())


def over_budget(run):
    return look_at_root(run.store, Objective(budget_bytes=1))


def ready(run):
    return look_at_root(run.store, Objective(budget_bytes=10**9))


MISSED = [
    (failed, ("pawl.run.dead", "dead"), "warning", "it failed and nobody goes on with it"),
    (unreadable, ("pawl.run.Bad", "Bad"), "critical", "The run name"),
    (over_budget, ("pawl.store", "memory://unnamed"), "warning", "the storage budget is spent"),
]


@pytest.mark.parametrize(("make", "resource", "verdict", "reason"), MISSED)
def test_whatever_misses_the_objective_is_an_event(run, emitted, make, resource, verdict, reason):
    report = make(run)
    assert alert_missed.fn(report) == 1
    ((event, sent),) = emitted
    assert event == MISSED_EVENT
    assert tuple(sent["resource"].values()) == resource
    assert list(sent["resource"]) == ["prefect.resource.id", "prefect.resource.name"]
    assert (sent["payload"]["store"], sent["payload"]["verdict"]) == (report.url, verdict)
    assert sent["payload"]["reason"].startswith(reason)


def test_a_root_that_is_ready_raises_no_alert(run, emitted):
    assert (alert_missed.fn(ready(run)), emitted) == (0, [])


@pytest.mark.parametrize(
    ("make", "fail", "name"),
    [
        (failed, True, "Failed"),
        (unreadable, True, "Failed"),
        (over_budget, True, "Failed"),
        (ready, True, "Completed"),
        (unreadable, False, "Completed"),
    ],
)
def test_the_flow_fails_by_the_verdict_if_that_is_wished(run, monkeypatch, make, fail, name):
    report = make(run)
    monkeypatch.setattr(flows.health, "assess_health", lambda *_, **__: report)
    for task in ("publish_health", "alert_missed"):
        monkeypatch.setattr(flows.health, task, lambda _: None)
    state = flows.health.health.fn(fail=fail)
    assert (state.name, state.message) == (name, f"{report.verdict}: {report.reason}")
