"""A deployment's run form, filled in and sent: what was typed arrives, the run is seen to its end, and its page is drawn."""

from __future__ import annotations

import pytest

from tests.browser.pictures import PATIENCE_MS, PICTURES_DRAWN, Camera
from tests.browser.playground import PATIENCE_S, Playground
from tests.browser.prefect_ui import PrefectUi

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

CONFIG = {"epochs": 1, "batch_size": 64, "step_delay": 0.3}
STEPS = 14


def test_the_run_that_was_typed_is_the_run_that_trains(
    ui: PrefectUi, playground: Playground, camera: Camera
) -> None:
    name, run = f"clicked-{ui.name}", f"typed-{ui.name}"
    ui.open(f"/deployments/deployment/{playground.deployment('train')['id']}/run")
    form = ui.form()
    form.write("Run Name", name)
    form.write_json("config", CONFIG)
    form.write("run", run)
    form.write("Every Steps", "5")
    camera.take(ui.page, f"run-form-{ui.name}", whole=False)
    ui.page.get_by_role("button", name="Submit", exact=True).click()

    flow_run = playground.flow_run_named(name)
    ui.open_flow_run(flow_run["id"])
    ui.wait_for_state("Running", PATIENCE_S * 1000)
    ui.wait_for_state("Completed", PATIENCE_S * 1000)
    given = flow_run["parameters"]
    assert (given["run"], given["config"], given["saving"]["every_steps"]) == (run, CONFIG, 5)
    assert given["storage"] == "pawl-storage/main"  # untouched, so as deployed
    assert given["scaling"]["cluster"] == "pawl-cluster/main"
    stored = playground.stored(run)
    assert stored.steps()[-1] == STEPS  # one epoch, as typed
    assert stored.committed() >= STEPS // 5 + 1

    ui.open_artifact_of_run(f"lineage-{run}")
    ui.page.wait_for_function(PICTURES_DRAWN, timeout=PATIENCE_MS)
    ui.wait_for_text("Hyperparameters of the newest version")
