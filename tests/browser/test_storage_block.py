"""The form of a Pawl storage block: what is typed is kept, secrets are not shown again, and runs use it by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.blocks import storage_target
from tests.browser.pictures import Camera
from tests.browser.playground import Playground
from tests.browser.prefect_ui import PrefectUi
from tests.support.small_training import patient_process, small_loop

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

SECRET = "not-to-be-seen"


def create(ui: PrefectUi, name: str, fields: dict[str, str], camera: Camera | None = None) -> None:
    """Fill in the form for a new block, and save it."""
    ui.open("/blocks/catalog/pawl-storage/create")
    form = ui.form()
    form.write("Name" if ui.name == "v2" else "Block Name", name)
    for title, text in fields.items():
        form.write(title, text)
    if camera is not None:
        camera.take(ui.page, f"block-form-{ui.name}", whole=False)
    ui.page.get_by_role("button", name="Save" if ui.name == "v2" else "Create", exact=True).click()
    ui.page.wait_for_url("**/blocks/block/*")


def test_a_run_finds_its_versions_through_a_block_that_was_clicked(
    ui: PrefectUi, playground: Playground, tmp_path: Path, camera: Camera
) -> None:
    patient_process(tmp_path).attempt(small_loop(), {"epochs": 1})  # a run below tmp_path/store
    name = f"folder-{ui.name}"
    create(ui, name, {"URL": str(tmp_path), "Root below the URL": "store"}, camera)
    flow_run_id = playground.start("health", {"storage": f"pawl-storage/{name}"})
    playground.wait_for(flow_run_id, "Completed", "Failed", "Crashed")
    flow_run = playground.flow_run(flow_run_id)
    assert flow_run["state"]["message"] == "ready: the one run can come back"
    assert str(tmp_path) not in str(flow_run["parameters"])  # the name alone is kept with the run


def test_keys_are_kept_and_not_shown_again(ui: PrefectUi, playground: Playground) -> None:
    name = f"bucket-{ui.name}"
    create(
        ui,
        name,
        {
            "URL": "s3://checkpoints/team",
            "Access key id": "an-id",
            "Secret access key": SECRET,
            "Endpoint": "http://127.0.0.1:7480",
        },
    )
    ui.wait_for_text("s3://checkpoints/team")
    assert SECRET not in ui.page.content()
    with temporary_settings({PREFECT_API_URL: playground.stack.api_url}):
        target = storage_target(f"pawl-storage/{name}")
    assert target.url == "s3://checkpoints/team"
    assert target.credentials is not None
    assert (target.credentials.access_key_id, target.credentials.secret_access_key) == ("an-id", SECRET)  # fmt: skip
    assert target.credentials.endpoint_url == "http://127.0.0.1:7480"
