"""The lineage artifact of a run that was killed and damaged, as both of Prefect's UIs draw it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.pictures import PATIENCE_MS, PICTURES_DRAWN, SIDEWAYS, Camera
from tests.browser.playground import Playground
from tests.browser.prefect_ui import SHOWS
from tests.browser.story import RUN, Story

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]


@pytest.mark.parametrize("ui", ["v1", "v2"])
def test_pictures_are_drawn_and_the_rejected_version_is_told(
    page: Any, playground: Playground, story: Story, camera: Camera, ui: str
) -> None:
    base = playground.stack.ui_url + ("/v2" if ui == "v2" else "")
    page.goto(f"{base}/artifacts/artifact/{story.artifact_id}")
    page.wait_for_function(SHOWS, arg="Rejected versions")
    page.wait_for_function(PICTURES_DRAWN, timeout=PATIENCE_MS)
    text = page.inner_text("body")
    told = re.search(rf"version {story.damaged}, passed over by attempts? 2\b", text)
    assert told is not None, text  # a try that a crowded machine cost passes it over once more
    assert "is damaged: its bytes have the digest" in text
    assert page.evaluate(SIDEWAYS) == 0, "text runs over what stands beside it"
    camera.take(page, f"lineage-{ui}")


@pytest.mark.parametrize("ui", ["v1", "v2"])
def test_the_flow_runs_page_shows_the_headline_on_its_artifacts_tab(
    page: Any, playground: Playground, story: Story, camera: Camera, ui: str
) -> None:
    path = "/v2/runs" if ui == "v2" else "/runs"
    page.goto(f"{playground.stack.ui_url}{path}/flow-run/{story.flow_run_id}?tab=Artifacts")
    if ui == "v1":
        page.get_by_text("Artifacts", exact=True).first.click()
    page.wait_for_function(SHOWS, arg=f"lineage-{RUN}")
    page.wait_for_function(SHOWS, arg="completed · step 84")
    camera.take(page, f"flow-run-{ui}", whole=False)
    if ui == "v2":  # the other one has room for one line
        assert "newest sound v14 · resumed from v2" in page.inner_text("body")
        card = page.get_by_role("link").filter(has_text=f"lineage-{RUN}")
        camera.take_part(card, "lineage-headline")
