"""A schedule that is set, and a run that is cancelled, on the pages of both UIs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.browser.playground import PATIENCE_S, Playground
from tests.browser.prefect_ui import PrefectUi
from tests.integration.harness import wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

MINUTES = 90


@pytest.fixture
def deployment(playground: Playground) -> Iterator[Any]:
    """The deployment `train`; schedules that a test gives it are removed, and with them the runs they planned."""
    found = playground.deployment("train")
    yield found
    for schedule in playground.deployment("train")["schedules"]:
        path = f"/deployments/{found['id']}/schedules/{schedule['id']}"
        httpx.delete(f"{playground.stack.api_url}{path}", timeout=60).raise_for_status()


def planned(playground: Playground, deployment: Any) -> list[Any]:
    """Runs that a schedule of the deployment has planned."""
    found = playground.ask(
        "/flow_runs/filter",
        deployments={"id": {"any_": [deployment["id"]]}},
        flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}},
    )
    return [run for run in found if run["auto_scheduled"]]


def test_a_schedule_that_was_clicked_plans_runs(
    ui: PrefectUi, playground: Playground, deployment: Any
) -> None:
    ui.open(f"/deployments/deployment/{deployment['id']}")
    ui.page.get_by_role("button", name="Schedule", exact=True).click()
    dialog = ui.dialog()
    dialog.locator("input[type=number], input[name='schedule.interval_value']").first.fill(
        str(MINUTES)
    )
    dialog.get_by_role("button", name="Save", exact=True).click()
    dialog.wait_for(state="hidden")
    wait_until(lambda: planned(playground, deployment), PATIENCE_S, "runs that are planned")
    (schedule,) = playground.deployment("train")["schedules"]
    assert (schedule["schedule"]["interval"], schedule["active"]) == (MINUTES * 60, True)
    names = [run["name"] for run in planned(playground, deployment)]
    ui.page.reload()
    upcoming = ui.page.get_by_role("tab", name="Upcoming", exact=True)
    upcoming.or_(ui.page.get_by_text("Upcoming", exact=True)).first.click()
    ui.page.wait_for_function(
        "names => names.some(name => document.body.innerText.includes(name))", arg=names
    )


def test_a_run_that_is_cancelled_ends_with_what_it_has(
    ui: PrefectUi, playground: Playground
) -> None:
    run = f"cancelled-{ui.name}"
    flow_run_id = playground.start(
        "train",
        {
            "run": run,
            "config": {"epochs": 6, "batch_size": 64, "step_delay": 1.0},
            "saving": {"every_steps": 5},
        },
    )
    stored = playground.stored(run)
    stored.wait_for_versions(1, PATIENCE_S)
    ui.open_flow_run(flow_run_id)
    ui.confirm("Cancel")
    playground.wait_for(flow_run_id, "Cancelled")
    ui.wait_for_state("Cancelled", 120_000)  # on the page that was left open
    (attempt,) = stored.state.attempts.values()
    assert (attempt.outcome, attempt.reason) == ("interrupted", "cancelled"), attempt
    assert attempt.last_step == stored.steps()[-1]
