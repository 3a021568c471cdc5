import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ray_workers.messages import PawlEvent
from ray_workers.metrics import DEFINITIONS, RunMetrics

DASHBOARD = Path(__file__).parents[2] / "deployments" / "grafana-dashboard.json"


@dataclass
class Recorded:
    """Instruments that keep what they are told, and refuse what is not defined."""

    counters: dict[Any, float] = field(default_factory=dict)
    gauges: dict[Any, float] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name, value, labels):
        self._check(name, "counter", labels)
        key = (name, *sorted(labels.items()))
        self.counters[key] = self.counters.get(key, 0) + value

    def set(self, name, value, labels):
        self._check(name, "gauge", labels)
        self.gauges[(name, *sorted(labels.items()))] = value

    def observe(self, name, value, labels):
        self._check(name, "histogram", labels)
        self.values.setdefault(name, []).append(value)

    @staticmethod
    def _check(name, kind, labels):
        assert DEFINITIONS[name].kind == kind
        assert set(labels) == set(DEFINITIONS[name].labels)


def committed(step, at):
    details = {
        "bytes": 100, "staging_s": 0.25, "step": step, "interval_s": 2.0 * step, "durable_s": 4.0,
        "last_save_cost_s": 0.5, "mtbf_s": 7200.0,
    }  # fmt: skip
    return PawlEvent(kind="committed", message="", at=at, details=details)


@pytest.fixture
def told():
    return Recorded()


def test_commits_are_counted_and_the_newest_is_named(told):
    metrics = RunMetrics(told, "r")
    metrics.started(resumed=True)
    metrics.events([committed(10, "2026-11-24T00:00:00+00:00")])
    metrics.events([committed(20, "2026-11-24T00:00:30+00:00")])
    run = ("run", "r")
    assert told.counters["pawl_versions_committed", run] == 2
    assert told.counters["pawl_committed_bytes", run] == 200
    assert told.counters["pawl_attempts", run, ("start", "resumed")] == 1
    assert told.gauges["pawl_save_interval_seconds", run] == 30
    assert told.gauges["pawl_chosen_interval_seconds", run] == 40
    assert told.gauges["pawl_save_cost_seconds", run] == 0.5
    assert told.gauges["pawl_failure_mtbf_seconds", run] == 7200
    at = datetime.fromisoformat("2026-11-24T00:00:30+00:00").timestamp()
    rung = ("rung", "committed")
    assert told.gauges["pawl_newest_version_timestamp_seconds", run, rung] == at
    assert told.gauges["pawl_newest_state_timestamp_seconds", run, rung] == at - 4
    assert told.values["pawl_stall_seconds"] == [0.25, 0.25]


def test_drops_and_failures_are_counted_apart(told):
    metrics = RunMetrics(told, "r")
    metrics.events([PawlEvent(kind="dropped", message="", at="", details={"reason": "x"})])
    metrics.events([PawlEvent(kind="fence_lost", message="", at="")])
    metrics.upload_failed()
    assert told.counters == {
        ("pawl_saves_dropped", ("run", "r")): 1,
        ("pawl_upload_failures", ("run", "r")): 1,
    }


def test_shards_in_flight_go_up_and_down_and_never_below_nought(told):
    metrics = RunMetrics(told, "r")
    key = ("pawl_uploads_in_flight", ("node", "n"), ("run", "r"))
    metrics.staged(10, "n")
    metrics.staged(20, "n")
    assert told.gauges[key] == 2
    done = mock.Mock(upload_s=1.5, bytes_sent=10)
    metrics.uploaded(done)
    for _ in range(3):
        metrics.answered("n")
    assert told.gauges[key] == 0
    assert told.counters["pawl_staged_bytes", ("run", "r")] == 30
    assert told.counters["pawl_uploaded_bytes", ("run", "r")] == 10
    assert told.values["pawl_upload_seconds"] == [1.5]


def test_verdicts_are_counted_by_rung(told):
    RunMetrics(told, "r").judged("sound", 20, 5.0, until_committed_s=3.0)
    rung = ("rung", "sound")
    assert told.counters["pawl_verdicts", ("run", "r"), rung] == 1
    assert told.gauges["pawl_newest_version_timestamp_seconds", ("run", "r"), rung] == 5.0
    assert told.gauges["pawl_newest_state_timestamp_seconds", ("run", "r"), rung] == 2.0
    assert told.gauges["pawl_newest_version_step", ("run", "r"), rung] == 20


def test_names_follow_prometheus():
    for name, definition in DEFINITIONS.items():
        assert re.fullmatch(r"pawl_[a-z_]+", name)
        assert not name.endswith("_total")  # the exporter adds it
        assert definition.told.endswith(".")
        assert "run" in definition.labels


def queries():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_asks_for_every_metric_and_for_no_other():
    asked = {name for query in queries() for name in re.findall(r"ray_(pawl_[a-z_]+)", query)}
    exported = {
        name + {"counter": "_total", "histogram": "_bucket", "gauge": ""}[d.kind]
        for name, d in DEFINITIONS.items()
    }
    assert asked == exported


def test_panels_have_a_title_a_unit_and_a_place_of_their_own():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(panels) == len({p["id"] for p in panels})
    assert all(p["title"] and p["fieldConfig"]["defaults"]["unit"] for p in panels)
