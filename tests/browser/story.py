"""A run worth looking at: killed with all its processes, one version damaged, brought back by Pawl."""

from __future__ import annotations

from dataclasses import dataclass

from tests.browser.playground import Playground

__all__ = ["RUN", "Story", "play"]

RUN = "digits"
PARAMETERS = {
    "run": RUN,
    "config": {"epochs": 6, "batch_size": 64, "step_delay": 0.3},
    "saving": {"every_steps": 10},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    flow_run_id: str
    artifact_id: str
    damaged: int


def play(playground: Playground) -> Story:
    """Killed after three versions, one byte of the newest flipped, brought back by Pawl's automations; to its end."""
    flow_run_id = playground.start("train", PARAMETERS)
    playground.stored(RUN).wait_for_versions(3, 400)
    playground.kill_flows()
    damaged = playground.damage_newest(RUN)
    playground.wait_for(flow_run_id, "Completed")
    found = playground.ask(
        "/artifacts/filter", artifacts={"key": {"any_": [f"lineage-{RUN}"]}}, sort="CREATED_DESC"
    )
    assert len(found) == 1
    return Story(flow_run_id=flow_run_id, artifact_id=found[0]["id"], damaged=damaged)
