"""The pages of the flows `health` and `compare`, as both of Prefect's UIs draw them."""

from __future__ import annotations

import pytest

from tests.browser.pictures import PATIENCE_MS, PICTURES_DRAWN, SIDEWAYS, Camera
from tests.browser.playground import Playground
from tests.browser.prefect_ui import PrefectUi
from tests.browser.story import RUN, Story

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]


def look(ui: PrefectUi, artifact_id: str, text: str) -> None:
    """Open an artifact whose pictures must be drawn, and whose text must fit."""
    ui.open(f"/artifacts/artifact/{artifact_id}")
    ui.wait_for_text(text)
    ui.page.wait_for_function(PICTURES_DRAWN, timeout=PATIENCE_MS)
    assert ui.page.evaluate(SIDEWAYS) == 0, "text runs over what stands beside it"


@pytest.fixture(scope="module")
def health(playground: Playground, story: Story) -> str:
    """The page about a store with the run that was killed and damaged; the artifact's id."""
    assert story.flow_run_id
    return playground.artifact_of(playground.start("health", {}), "pawl-health")


@pytest.fixture(scope="module")
def comparison(playground: Playground, story: Story) -> str:
    assert story.flow_run_id
    versions = [f"{RUN}@1", f"{RUN}@sound"]
    started = playground.start("compare", {"versions": versions})
    return playground.artifact_of(started, "pawl-comparison")


def test_the_health_page_is_drawn(ui: PrefectUi, health: str, camera: Camera) -> None:
    look(ui, health, RUN)
    camera.take(ui.page, f"health-{ui.name}")


def test_the_comparison_is_drawn(ui: PrefectUi, comparison: str, camera: Camera) -> None:
    look(ui, comparison, f"{RUN}@1")
    camera.take(ui.page, f"comparison-{ui.name}")
