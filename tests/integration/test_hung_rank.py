"""A rank that hangs in the middle of a real training: named, its stack kept on the page, ended, and the run goes on."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.automations import MIN_SILENCE_S, ComeBack, automations
from tests.integration.conftest import PrefectServer
from tests.integration.traced_training import Training

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.timeout(1200)]


def add_automations(server: PrefectServer) -> None:
    with (
        temporary_settings({PREFECT_API_URL: server.api_url}),
        get_client(sync_client=True) as client,
    ):
        for one in automations(ComeBack(lost_after_seconds=MIN_SILENCE_S)):
            client.create_automation(one)


def stacks_on_the_page(server: PrefectServer, flow_run_id: str) -> str:
    with (
        temporary_settings({PREFECT_API_URL: server.api_url}),
        get_client(sync_client=True) as client,
    ):
        (found,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                key=ArtifactFilterKey(any_=["stacks-run"]),
                flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(flow_run_id)]),
            )
        )
    return str(found.data)


@pytest.mark.slow
@pytest.mark.fault
def test_a_hung_rank_ends_its_attempt_with_all_stacks_and_the_retry_ends_in_the_same_bits(
    project: Path, prefect_server: PrefectServer, uninterrupted: list[str]
) -> None:
    """Pawl's automations are on the server, and do not call the run dead: it hangs, but beats."""
    add_automations(prefect_server)
    training = Training(project, prefect_server)
    training.hang_at = 18
    process = training.start("--hung-after", "100", retries=1)
    assert process.wait() == 0, process.output
    assert training.outcomes() == ["failed", "completed"]
    first, _ = training.stored.state.attempts.values()
    assert "took no step" in str(first.reason)
    assert first.last_commit is not None
    page = stacks_on_the_page(prefect_server, first.flow_run_id)
    first_half, second_half = page.split("## Rank 1 (no step)")
    assert "in _hang_for_ever" in second_half
    assert "in _hang_for_ever" not in first_half
    assert "in step\n" in first_half  # where rank 0 waits for it
    assert training.stored.final_digests() == uninterrupted
