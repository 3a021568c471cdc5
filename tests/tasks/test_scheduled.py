"""What the schedule dialog of Prefect's newer UI sends, and what becomes of it."""

import importlib
from typing import Any

import pytest
from pydantic import BaseModel

from ray_workers.config import Saving, Scaling
from tasks import blocks, scheduled
from tasks.run_identity import Scheduled
from tasks.scheduled import fill_gaps, with_deployed

DEPLOYED = {
    "entrypoint": "mine:train_loop",
    "run": "nightly",
    "storage": "pawl-storage/main",
    "config": {"lr": 0.1},
    "scaling": {"cluster": "pawl-cluster/main", "workers": 4},
    "saving": {"every_steps": 100},
}
UNTOUCHED = {
    "config": {"__prefect_kind": "json"},
    "run": None,
    "storage": None,
    "scaling": {"ray_address": None, "cluster": None},
    "saving": {"every_steps": None, "every_seconds": None},
    "code_dir": None,
}
"""Of 3.8.8, shortened."""


def as_the_flow_gets_it(given):
    return {
        **given,
        "scaling": Scaling.model_validate(given["scaling"]),
        "saving": Saving.model_validate(given["saving"]),
    }


def filled(**schedule):
    given = {**DEPLOYED, **UNTOUCHED, **schedule}
    return fill_gaps(as_the_flow_gets_it(given), Scheduled(given=given, deployed=DEPLOYED))


def test_what_nobody_touched_is_what_the_deployment_says():
    found = filled()
    assert (found["run"], found["storage"]) == ("nightly", "pawl-storage/main")
    assert found["config"] == {"lr": 0.1}
    assert (found["scaling"].cluster, found["scaling"].workers) == ("pawl-cluster/main", 4)
    assert found["saving"].every_steps == 100
    assert found["code_dir"] is None


def test_what_somebody_wrote_stands_and_takes_nothing_else_along():
    found = filled(
        run="other",
        scaling={"ray_address": None, "cluster": None, "workers": 8},
        config={"epochs": 3},
    )
    assert found["run"] == "other"
    assert found["config"] == {"epochs": 3}
    assert (found["scaling"].workers, found["scaling"].cluster) == (8, "pawl-cluster/main")


def test_a_json_field_that_nobody_filled_is_no_hyperparameter():
    given = {"config": {"__prefect_kind": "json"}}
    assert fill_gaps(given, Scheduled(given=given, deployed={})) == {"config": {}}


def test_a_run_that_a_person_started_is_taken_at_its_word(monkeypatch):
    monkeypatch.setattr(scheduled, "scheduled_run", lambda: None)
    assert with_deployed({"storage": None}) == {"storage": None}


@pytest.mark.parametrize("started_by_schedule", [True, False])
def test_an_empty_storage_is_the_deployments_in_every_flow(
    monkeypatch, tmp_path, started_by_schedule
):
    monkeypatch.setenv("PAWL_STORAGE", "/from/the/environment")
    run = Scheduled(given={"storage": None}, deployed={"storage": str(tmp_path)})
    monkeypatch.setattr(scheduled, "scheduled_run", lambda: run if started_by_schedule else None)
    expected = str(tmp_path) if started_by_schedule else "/from/the/environment"
    assert blocks.storage_target(None).url == expected


@pytest.mark.parametrize(
    ("flow", "task", "field", "deployed"),
    [
        ("maintain", "plan_runs", "retention", {"keep_last": 5}),
        ("health", "assess_health", "objective", {"budget_gb": 3.0}),
        ("drill", "plan_drills", "cluster", "pawl-cluster/main"),
        ("scrub", "scrub_runs", "runs", ["digits"]),
    ],
)
def test_an_upkeep_flow_keeps_what_its_deployment_says(monkeypatch, flow, task, field, deployed):
    """A schedule of the newer UI's dialog leaves it empty."""
    module = importlib.import_module(f"flows.{flow}")
    got: list[Any] = []

    def stop(*arguments: Any, **named: Any) -> None:
        got.extend([*arguments, named])
        raise InterruptedError

    empty = dict.fromkeys(deployed) if isinstance(deployed, dict) else None
    run = Scheduled(given={field: empty}, deployed={field: deployed})
    monkeypatch.setattr(scheduled, "scheduled_run", lambda: run)
    monkeypatch.setattr(module, task, stop)
    with pytest.raises(InterruptedError):
        getattr(module, flow).fn()
    values = [*got, *(value for each in got if isinstance(each, dict) for value in each.values())]
    found = [v.model_dump(exclude_unset=True) if isinstance(v, BaseModel) else v for v in values]
    assert deployed in found
