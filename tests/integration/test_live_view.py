"""What a person, or an automation, can see of a run from Prefect alone."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import PrefectServer, train_whole
from tests.integration.harness import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.long, pytest.mark.timeout(1200)]

EXPECTED = {
    "pawl.version.committed",
    "pawl.version.validated",
    "pawl.attempt.completed",
    "prefect.asset.materialization.succeeded",
}


def ask(server: PrefectServer, path: str, **body: object):
    answer = httpx.post(f"{server.api_url}{path}", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def test_events_asset_progress_and_final_state_tell_the_run(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    assert train_whole(tmp_path, prefect_server)
    flow_run = next(
        r for r in ask(prefect_server, "/flow_runs/filter") if r["parameters"].get("run") == "whole"
    )
    assert "pawl" in flow_run["tags"]
    message = flow_run["state"]["message"]
    assert message.startswith("Run 'whole': step 42, epoch 3 of 3, loss ")
    assert message.endswith("(step 42)")

    def events():
        found = ask(
            prefect_server,
            "/events/filter",
            filter={
                "any_resource": {"id": [f"prefect.flow-run.{flow_run['id']}"]},
                "event": {"prefix": ["pawl.", "prefect.asset."]},
            },
            limit=50,
        )["events"]
        return found if {e["event"] for e in found} >= EXPECTED else None

    found = wait_until(events, what=f"{EXPECTED} among the events")
    committed = [e for e in found if e["event"] == "pawl.version.committed"]
    assert {e["resource"]["prefect.resource.id"] for e in committed} == {"pawl.run.whole"}
    assert max(e["payload"]["step"] for e in committed) == 42
    bars = ask(prefect_server, "/artifacts/filter", artifacts={"key": {"any_": ["progress-whole"]}})
    assert "is sound" in bars[0]["description"]
    assert ", loss " in bars[0]["description"]
