"""Retry on a killed run's page, in both of Prefect's UIs: the same flow run goes on from its newest trusted version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.playground import PATIENCE_S, Playground
from tests.browser.prefect_ui import UIS, PrefectUi

pytestmark = [
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

RUN = "by-hand"
PARAMETERS = {
    "run": RUN,
    "config": {"epochs": 3, "batch_size": 64, "step_delay": 0.5},
    "saving": {"every_steps": 5},
}


@pytest.fixture
def nobody_retries(playground: Playground) -> Iterator[None]:
    """Pawl's automations leave a crashed run alone for an hour, so that whoever brings it back is the button."""
    playground.set_up("--backoff", "3600")
    yield
    playground.set_up("--backoff", "30,60,300")


@pytest.mark.usefixtures("nobody_retries")
def test_retry_goes_on_with_a_killed_run(page: Any, playground: Playground) -> None:
    flow_run_id = playground.start("train", PARAMETERS)
    stored = playground.stored(RUN)
    stored.wait_for_versions(2, PATIENCE_S)
    for kills, name in enumerate(UIS, start=1):
        ui = PrefectUi(page=page, url=playground.stack.ui_url, name=name)
        press_retry(ui, playground, flow_run_id, kills)
    playground.wait_for(flow_run_id, "Completed")
    page.get_by_text("Completed", exact=True).first.wait_for()  # without a reload
    attempts = list(stored.state.attempts.values())
    assert [(a.flow_run_id, a.run_count) for a in attempts] == [(flow_run_id, n) for n in (1, 2, 3)]
    assert [a.resume is not None for a in attempts] == [False, True, True]
    assert stored.final_digests()
    told = [s["message"] for s in playground.states(flow_run_id) if s["name"] == "AwaitingRetry"]
    assert told == ["Retry from the UI"] * 2


def press_retry(ui: PrefectUi, playground: Playground, flow_run_id: str, kills: int) -> None:
    """Kill the run, press the button on its page, and wait until it has saved once more."""
    stored = playground.stored(RUN)
    playground.kill_flows()
    playground.wait_for(flow_run_id, "Crashed")
    playground.wait_for_worker(flow_run_id, kills)  # or it takes the next try for the killed one
    versions = stored.committed()
    ui.open_flow_run(flow_run_id)
    ui.wait_for_text("Crashed")
    ui.confirm("Retry")
    stored.wait_for_versions(versions + 1, PATIENCE_S)
