"""A person decides in the browser: the paused promotion shows its form, a yes moves the tag, a no leaves it."""

from __future__ import annotations

import pytest

from ray_workers.store.attempts import read_run
from ray_workers.store.opening import open_root
from ray_workers.store.tags import tag_history
from tests.browser.forms import Form
from tests.browser.pictures import Camera
from tests.browser.playground import Playground
from tests.browser.prefect_ui import PrefectUi
from tests.support.factories import MadeUpRun
from tests.support.small_training import patient_process, small_loop

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

GATE = {"metric": None, "approval": True, "approval_minutes": 30}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with three sound versions of one run."""
    folder = tmp_path_factory.mktemp("approval")
    patient_process(folder).attempt(small_loop(), {"epochs": 1})
    url = str(folder / "store")
    MadeUpRun(store=open_root(url, create=False).store, name="run").judge(1, 2, 3)
    return url


@pytest.mark.parametrize("approve", [True, False])
def test_the_tag_goes_where_the_form_says(
    ui: PrefectUi, playground: Playground, url: str, camera: Camera, *, approve: bool
) -> None:
    tag = f"asked-{ui.name}-{approve}".lower()
    flow_run_id = playground.start(
        "promote", {"version": "run@3", "tag": tag, "storage": url, "gate": GATE}
    )
    playground.wait_for(flow_run_id, "Paused")
    ui.open_flow_run(flow_run_id)
    ui.wait_for_state("Paused", 60_000)
    dialog = ui.choose("Resume")
    form = Form(within=dialog)
    form.write("Who", "ada")
    form.write("Comment", "looks right" if approve else "not yet")
    assert f"Move the tag {tag} to run@3? all 2 checks hold" in dialog.inner_text()
    if approve:
        form.flip("Approve")
        camera.take(ui.page, f"approval-{ui.name}", whole=False)
    ui.answer(dialog)

    playground.wait_for(flow_run_id, "Completed" if approve else "Cancelled")
    store = open_root(url, create=False).store
    message = playground.flow_run(flow_run_id)["state"]["message"]
    if approve:
        assert message == f"run@3 is {tag} now"
        (move,) = [move for move in tag_history(store, "run") if move.name == tag]
        assert (move.version, move.by["approved_by"], move.by["comment"]) == (3, "ada", "looks right")  # fmt: skip
    else:
        assert message == "Not promoted: not approved. not yet"
        assert tag not in read_run(store, "run").tags
