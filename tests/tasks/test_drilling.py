"""How many drills a flow run makes: those that come to no verdict take nobody's turn."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from ray_workers.store.errors import TrainingFailedError, VersionGoneError
from tasks import drilling
from tasks.drilling import DrillPlan, carry_out_drills

ENDS = {
    "verdict": None,
    "broken": TrainingFailedError("cannot be imported"),
    "gone": VersionGoneError("deleted meanwhile", number=1),
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    def drilled(drill: Any, tell: object) -> Any:
        del tell
        error = ENDS[drill.run.partition("-")[0]]
        if error is not None:
            raise error
        return SimpleNamespace(
            run=drill.run, number=drill.version, step=1, reason=None, quarantined=False, passed=True, evidence={}
        )  # fmt: skip

    monkeypatch.setattr(drilling, "drill_version", drilled)
    monkeypatch.setattr(drilling, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(drilling, "current_identity", lambda: None)
    monkeypatch.setattr(drilling, "announce", lambda *_: None)


def carried_out(most: int, *runs: str) -> Any:
    drills: Any = tuple(SimpleNamespace(run=run, version=1) for run in runs)
    return carry_out_drills(DrillPlan(drills=drills, most=most, undone=()))


def test_runs_that_cannot_be_drilled_keep_no_other_from_its_turn():
    report = carried_out(2, "broken-a", "gone-b", "verdict-c", "broken-d", "verdict-e", "verdict-f")
    assert [outcome.run for outcome in report.outcomes] == ["verdict-c", "verdict-e"]
    assert [one.run for one in report.undone] == ["broken-a@1", "broken-d@1"]


def test_no_more_are_drilled_than_are_wanted():
    report = carried_out(1, "verdict-a", "verdict-b")
    assert [outcome.run for outcome in report.outcomes] == ["verdict-a"]
