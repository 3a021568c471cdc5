"""What a run exports to Prometheus, and when: names, units and labels are defined here alone.

Instruments are handed in, so that everything here runs without Ray. A metric is a view: recording one never raises.
Ray puts `ray_` before each name and `_total` behind each counter. Instants are exported instead of ages, as Prometheus
advises: the age is `time() - ray_pawl_newest_version_timestamp_seconds`, and the work that a resume would do again
`time() - ray_pawl_newest_state_timestamp_seconds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from ray_workers.messages import PawlEvent, ShardReport

__all__ = ["DEFINITIONS", "Definition", "Instruments", "RunMetrics"]

_PACE = {
    "interval_s": "pawl_chosen_interval_seconds",
    "last_save_cost_s": "pawl_save_cost_seconds",
    "mtbf_s": "pawl_failure_mtbf_seconds",
}
"""What the interval between saves hangs on, by its name among a version's durations."""
_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    name: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    told: str
    labels: tuple[str, ...] = ("run",)
    buckets: Sequence[float] = ()


DEFINITIONS = {
    definition.name: definition
    for definition in (
        Definition(name="pawl_versions_committed", kind="counter", told="Versions committed."),
        Definition(name="pawl_committed_bytes", kind="counter", told="Bytes of committed versions."),
        Definition(name="pawl_saves_dropped", kind="counter", told="Saves that became no version."),
        Definition(name="pawl_staged_bytes", kind="counter", told="Bytes copied out of training."),
        Definition(name="pawl_uploaded_bytes", kind="counter", told="Bytes of durable shards."),
        Definition(name="pawl_upload_failures", kind="counter", told="Shards that could not be stored."),
        Definition(
            name="pawl_attempts", kind="counter", told="Attempts begun; start is fresh or resumed.",
            labels=("run", "start"),
        ),
        Definition(
            name="pawl_verdicts", kind="counter", told="Versions judged, by the rung they came to.",
            labels=("run", "rung"),
        ),
        Definition(name="pawl_uploads_in_flight", kind="gauge", told="Shards staged and not yet answered, by node.", labels=("run", "node")),
        Definition(
            name="pawl_newest_version_timestamp_seconds", kind="gauge",
            told="When the newest version of a rung was committed.", labels=("run", "rung"),
        ),
        Definition(
            name="pawl_newest_state_timestamp_seconds", kind="gauge",
            told="When the copy of the newest version of a rung began; a resume does again what came later.",
            labels=("run", "rung"),
        ),
        Definition(
            name="pawl_newest_version_step", kind="gauge", told="Step of the newest version of a rung.",
            labels=("run", "rung"),
        ),
        Definition(name="pawl_save_interval_seconds", kind="gauge", told="Between the last two commits."),
        Definition(
            name="pawl_chosen_interval_seconds", kind="gauge",
            told="The interval of least expected waste, as chosen for now.",
        ),
        Definition(
            name="pawl_save_cost_seconds", kind="gauge",
            told="What the save before the newest version cost training.",
        ),
        Definition(
            name="pawl_failure_mtbf_seconds", kind="gauge",
            told="Between failures of the group of workers, as the interval was chosen by.",
        ),
        Definition(
            name="pawl_stall_seconds", kind="histogram", told="Training stood still for a save.",
            buckets=_SECONDS,
        ),
        Definition(
            name="pawl_upload_seconds", kind="histogram", told="A shard took to become durable.",
            buckets=_SECONDS,
        ),
    )
}  # fmt: skip


class Instruments(Protocol):
    """Where the numbers go. None of these may raise."""

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Count up."""

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """The present value of a gauge."""

    def observe(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """One value of a histogram."""


class RunMetrics:
    """The metrics of one run, as one process sees it.

    Args:
        instruments: where they go.
        run: the run's name.
    """

    def __init__(self, instruments: Instruments, run: str) -> None:
        self._to = instruments
        self._labels = {"run": run}
        self._last_commit: float | None = None
        self._in_flight = 0

    def started(self, *, resumed: bool) -> None:
        """An attempt, or the next incarnation of its coordinator, began."""
        start = "resumed" if resumed else "fresh"
        self._to.add("pawl_attempts", 1, {**self._labels, "start": start})

    def events(self, events: Sequence[PawlEvent]) -> None:
        """What the coordinator tells."""
        for event in events:
            if event.kind == "committed":
                self._commit(event)
            elif event.kind == "dropped":
                self._to.add("pawl_saves_dropped", 1, self._labels)

    def judged(
        self, rung: str, step: int, at: float | None, *, until_committed_s: float = 0.0
    ) -> None:
        """A version came to `rung`.

        Args:
            rung: where it stands now.
            step: its own.
            at: when it was committed, in seconds since the epoch.
            until_committed_s: from the begin of its copy.
        """
        labels = {**self._labels, "rung": rung}
        self._to.add("pawl_verdicts", 1, labels)
        self._newest(rung, step, at, until_committed_s)

    def staged(self, nbytes: int, node: str) -> None:
        """A shard lies in a staging buffer, and waits to be stored."""
        self._to.add("pawl_staged_bytes", nbytes, self._labels)
        self._flight(1, node)

    def uploaded(self, report: ShardReport) -> None:
        self._to.add("pawl_uploaded_bytes", report.bytes_sent, self._labels)
        self._to.observe("pawl_upload_seconds", report.upload_s, self._labels)

    def upload_failed(self) -> None:
        self._to.add("pawl_upload_failures", 1, self._labels)

    def answered(self, node: str) -> None:
        """The coordinator said what became of a staged shard."""
        self._flight(-1, node)

    def _commit(self, event: PawlEvent) -> None:
        facts: Mapping[str, Any] = event.details
        self._to.add("pawl_versions_committed", 1, self._labels)
        self._to.add("pawl_committed_bytes", float(facts["bytes"]), self._labels)
        self._to.observe("pawl_stall_seconds", float(facts["staging_s"]), self._labels)
        at = datetime.fromisoformat(event.at).timestamp()
        self._newest("committed", int(facts["step"]), at, float(facts["durable_s"]))
        for fact, name in _PACE.items():
            if facts.get(fact) is not None:
                self._to.set(name, float(facts[fact]), self._labels)
        if self._last_commit is not None:
            self._to.set("pawl_save_interval_seconds", at - self._last_commit, self._labels)
        self._last_commit = at

    def _newest(self, rung: str, step: int, at: float | None, until_committed_s: float) -> None:
        labels = {**self._labels, "rung": rung}
        self._to.set("pawl_newest_version_step", step, labels)
        if at is not None:
            self._to.set("pawl_newest_version_timestamp_seconds", at, labels)
            self._to.set("pawl_newest_state_timestamp_seconds", at - until_committed_s, labels)

    def _flight(self, change: int, node: str) -> None:
        self._in_flight = max(0, self._in_flight + change)
        self._to.set("pawl_uploads_in_flight", self._in_flight, {**self._labels, "node": node})
