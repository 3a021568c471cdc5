"""A run of the traced loop in a user's project folder, started, watched at its gates, and looked at afterwards."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from ray_workers.store.opening import StorageTarget
from ray_workers.store.versions import load_manifest
from tasks.artifact_keys import artifact_key
from tests.integration.conftest import PrefectServer
from tests.integration.harness import QUICK, PawlProcess, StoredRun, start_pawl, train_arguments
from tests.integration.traced_loop import ENTRYPOINT, Gates

__all__ = ["FREE", "INTERVAL", "Training", "read_flow_run"]

INTERVAL = 5
FREE = Gates(Path("unused"))


class Training:
    def __init__(self, project: Path, server: PrefectServer, run: str = "run") -> None:
        self.project, self.server = project, server
        self.environment = dict(server.env)
        self.step_delay = 0.0
        """Seconds that each step of the next attempts takes longer."""
        self.hang_at = 0
        """Step ahead of which rank 1 of the first attempt hangs for ever; 0: none."""
        self.trace = project / f"{run}.trace"
        self.stored = StoredRun(target=StorageTarget(str(project / "store")), run=run)

    def gates(self, *steps: int, settle: int | None = None) -> Gates:
        return Gates(self.project / "gates", steps, settle)

    def config(self, gates: Gates = FREE, *, raise_at: int = 0) -> dict[str, object]:
        """None of these is part of the state: an attempt that waits and one that does not end in the same bits."""
        told = {"gates": gates.config} if gates is not FREE else {}
        delay = {"step_delay": self.step_delay} if self.step_delay else {}
        hang = {"hang_at": self.hang_at} if self.hang_at else {}
        return {**QUICK, **delay, **hang, "trace": str(self.trace), "raise_at": raise_at, **told}

    def start(
        self, *extra: str, gates: Gates = FREE, raise_at: int = 0, retries: int = 0
    ) -> PawlProcess:
        arguments = train_arguments(
            self.stored.run, "--storage", "store", "--retries", str(retries), *extra,
            entrypoint=ENTRYPOINT, config=self.config(gates, raise_at=raise_at),
        )  # fmt: skip
        return start_pawl(self.project, *arguments, env=self.environment)

    def steps_done(self) -> int:
        """Steps that rank 0 did in all attempts together, redone ones included."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return sum(line.startswith("0 ") for line in lines)

    def steps_redone(self) -> int:
        return self.steps_done() - self.stored.state.newest_first()[0].step

    def interrupted_by(self) -> list[str | None]:
        """Of each version, oldest first: what asked for the end when it was saved."""
        store, state = self.stored.target.open().store, self.stored.state
        manifests = [load_manifest(store, self.stored.run, v) for v in state.versions.values()]
        return [manifest.environment.get("interrupted") for manifest in manifests]

    def outcomes(self) -> list[str | None]:
        return [a.outcome for a in self.stored.state.attempts.values()]

    def flow_run(self, index: int = 0) -> FlowRun:
        """What Prefect says of the flow run of the n-th attempt."""
        attempt = list(self.stored.state.attempts.values())[index]
        return read_flow_run(self.server, attempt.flow_run_id)

    def page(self, index: int = 0) -> str:
        """The lineage artifact on that flow run's page."""
        key = ArtifactFilterKey(any_=[artifact_key("lineage", self.stored.run)])
        wanted = ArtifactFilterFlowRunId(any_=[self.flow_run(index).id])
        with (
            temporary_settings({PREFECT_API_URL: self.server.api_url}),
            get_client(sync_client=True) as client,
        ):
            (found,) = client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=wanted, key=key)
            )
        return str(found.data)


def read_flow_run(server: PrefectServer, flow_run_id: str) -> FlowRun:
    with (
        temporary_settings({PREFECT_API_URL: server.api_url}),
        get_client(sync_client=True) as client,
    ):
        return client.read_flow_run(UUID(flow_run_id))
