"""Every interruption, on every kind of cluster, at every stage of the save that it meets: what is played, and what was promised."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CELLS", "INTERRUPTIONS", "Cell", "Cluster", "Interruption", "Stage"]


class Cluster(StrEnum):
    LOCAL = "local"
    """Started by the flow's process, and ended with it."""
    SEPARATE = "separate"
    """Started by others before, and there when the flow's process is gone."""


class Stage(StrEnum):
    """What had become of the save in flight when the request came; in the order in which a save goes through them."""

    STAGED = "staged"
    """Copied by every rank; not a byte of it was sent."""
    UPLOADING = "uploading"
    """One rank's shard is stored, the other's is on the wire."""
    COMMITTING = "committing"
    """Every rank's shard is stored, and nothing names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """One line of the table of interruptions in docs/reliability.md."""

    key: str
    told: str
    """Who asks, as a reader is told."""
    cause: str
    """As the version says that it saves."""
    state: str
    """The flow run's, at the end."""
    exit_code: int | None
    """Of `pawl train`; None: a worker runs the flow, or its process goes on."""
    end_s: float
    """Seconds that the end may take beside the grace, on a machine that does nothing else."""
    clusters: tuple[Cluster, ...] = (Cluster.LOCAL, Cluster.SEPARATE)

    @property
    def by_worker(self) -> bool:
        """It reaches a flow run that a Prefect worker started."""
        return self.state == "Cancelled"


INTERRUPTIONS = (
    Interruption(
        key="ctrl_c",
        told="Ctrl-C",
        cause="Ctrl-C",
        state="Crashed",
        exit_code=130,
        end_s=10,
    ),
    Interruption(
        key="sigterm",
        told="SIGTERM to the flow's process",
        cause="SIGTERM",
        state="Crashed",
        exit_code=143,
        end_s=12,
    ),
    Interruption(
        key="cancel",
        told="cancel, under a worker",
        cause="SIGTERM",
        state="Cancelled",
        exit_code=None,
        end_s=12,
    ),
    Interruption(
        key="time_limit",
        told="`--time-limit`",
        cause="time limit",
        state="Failed",
        exit_code=75,
        end_s=12,
    ),
    Interruption(
        key="draining",
        told="the Ray node drains",
        cause="node draining",
        state="AwaitingRetry",
        exit_code=None,
        end_s=12,
        clusters=(Cluster.SEPARATE,),
    ),
    Interruption(
        key="job",
        told="cancel of a flow that follows a Ray job",
        cause="SIGTERM",
        state="Cancelled",
        exit_code=None,
        end_s=12,
        clusters=(Cluster.SEPARATE,),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    asked: Interruption
    cluster: Cluster
    stage: Stage
    goes_on: bool = True
    """What holds the save up goes on when the request was heard; else never, and the grace runs out."""

    @property
    def key(self) -> str:
        end = "" if self.goes_on else "-for_ever"
        return f"{self.asked.key}-{self.cluster}-{self.stage}{end}"

    @property
    def comes_back(self) -> bool:
        """The run is resumed and trained to its end: once for each interruption, on the machine that tests."""
        first = self.cluster is self.asked.clusters[0]
        return self.goes_on and first and self.stage is Stage.STAGED


def _all() -> tuple[Cell, ...]:
    goes_on = [
        Cell(asked=asked, cluster=cluster, stage=stage)
        for asked in INTERRUPTIONS
        for cluster in asked.clusters
        for stage in Stage
    ]
    # What stands still for ever ends alike whoever asked: every stage under the shortest grace, then each of the others once.
    for_ever = [
        Cell(asked=INTERRUPTIONS[0], cluster=cluster, stage=stage, goes_on=False)
        for cluster in Cluster
        for stage in Stage
    ]
    stages = list(Stage)
    for_ever += [
        Cell(
            asked=asked,
            cluster=asked.clusters[0],
            stage=stages[number % len(stages)],
            goes_on=False,
        )
        for number, asked in enumerate(INTERRUPTIONS[1:])
    ]
    return (*goes_on, *for_ever)


CELLS = _all()
