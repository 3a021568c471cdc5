"""Frozen records that cross an actor boundary: from a worker to its node agent, on to the checkpoint actor, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_workers.policies.failure_rate import FailureRate
from ray_workers.store.bodies import VersionName
from ray_workers.store.layout import TensorLayout
from ray_workers.store.manifest import Curve, Progress
from ray_workers.store.shards import ShardEntry

__all__ = [
    "DRAINING",
    "RESIZE",
    "TIME_LIMIT",
    "DriverNews",
    "LogLine",
    "PawlEvent",
    "RankState",
    "ResumePoint",
    "SaveId",
    "ShardReport",
    "StagedFile",
    "StagedPart",
    "StagedShard",
    "StopRequest",
    "VersionOutcome",
]


TIME_LIMIT = "time limit"
"""Cause of an interruption: this process has no time left, so nothing is tried again in it."""
DRAINING = "node draining"
"""Cause of an interruption: a node on which ranks train is about to go."""
RESIZE = "resize"
"""Cause of an interruption: training goes on at once with more workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """The version an attempt starts from: already read back and digested when it was chosen."""

    run: str
    name: VersionName
    manifest_key: str
    step: int
    rung: str
    foreign: bool
    """It is a version of another run: this run is a fork."""
    verify_s: float = 0.0
    """Seconds that reading it back took when it was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SaveId:
    """One save of an attempt, as all of its ranks call it; in order of happening."""

    step: int
    number: int = 0
    """How many saves the attempt had begun before: one step may be saved again, as a training's last one is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedFile:
    """One file of a handed-over directory, as it lies in the shard."""

    path: str
    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankState:
    """What one rank knows of a save besides the bytes. The shared parts come from rank 0 and are None elsewhere."""

    rank_plain: Any
    plain: Any = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, Curve] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[StagedFile, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds, from rank 0: of the attempt's start by phase (`startup.StartUp`), and what the interval is chosen from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedPart:
    """One shard in a staging buffer."""

    begin: int
    """Where it lies in the file."""
    bytes: int
    layout: Mapping[str, TensorLayout]
    """This shard's chunks only; their `shard` index is 0 until the manifest is made."""
    still: bool = False
    """It seems to be what was stored before: worth a digest before it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedShard:
    """One rank's shards of a version, complete in a staging buffer and touched by nobody else until it is answered."""

    rank: int
    world_size: int
    progress: Progress
    payload: str
    path: str
    """The staging file."""
    parts: tuple[StagedPart, ...]
    """In the order of the manifest; the rank's files, if it has any, are in the first."""
    state: RankState
    staged_s: float
    """Seconds that training stood still for the copy."""
    begun_at: float | None = None
    """When the copy began, on this host's monotonic clock; its node agent reads the same one."""
    known: tuple[ShardEntry, ...] = ()
    """What is stored already and may be named instead of a part with the same bytes."""
    save_number: int = 0
    """As in `SaveId`."""

    @property
    def save(self) -> SaveId:
        return SaveId(step=self.progress.step, number=self.save_number)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """One rank's shards, all durable."""

    staged: StagedShard
    entries: tuple[ShardEntry, ...]
    """One for each part."""
    reused: frozenset[str]
    """Keys of those that were stored for an earlier version."""
    fence: int
    """Under which it was stored; a report under another fence than the coordinator's own is void."""
    upload_s: float
    durable_s: float | None = None
    """Seconds from the begin of the copy until the shard was durable; None: not measured."""

    @property
    def took_s(self) -> float:
        """As much of that as is known."""
        return self.upload_s if self.durable_s is None else self.durable_s

    @property
    def bytes_sent(self) -> int:
        return sum(entry.bytes for entry in self.entries if entry.key not in self.reused)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequest:
    """Why an attempt must end, as it travels from the driver to the ranks."""

    reason: str
    """`fence_lost`, `budget_spent`, `interrupted`; anything else ends it like a failure that can be retried."""
    cause: str = ""
    """Of an interruption, for people: `Ctrl-C`, `SIGTERM`, `TIME_LIMIT`, `DRAINING`, `RESIZE`."""
    place: str = ""
    """Where, for people: the node that goes, and the ranks on it."""
    grace_s: float = 0.0
    """Seconds that are left for a last version. Each hop counts them down by its own clock."""

    @property
    def told(self) -> str:
        """The cause with its place."""
        return f"{self.cause} ({self.place})" if self.place else self.cause

    def after(self, seconds: float) -> StopRequest:
        """The same request, so much later."""
        return replace(self, grace_s=max(0.0, self.grace_s - seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverNews:
    """What the driver last said to a node, as a rank of it asks for it while it trains."""

    stop: StopRequest | None = None
    """Why the attempt must end, with the grace that is left by now."""
    validating: bool = False
    """A version is being read and judged, or waits for that, on the machines that train."""
    rate: FailureRate | None = None
    """How often training fails, as it is known by now; None: no more than when the attempt started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionOutcome:
    """What became of one save; the same for every rank, but for `shards`."""

    step: int
    number: int | None
    """None: the save was dropped, for `reason`."""
    reason: str | None = None
    stop: str | None = None
    """`fence_lost` or `budget_spent`: the attempt must end."""
    resend: bool = False
    """What the save referred to may not be built on: the next one must send everything."""
    shards: tuple[ShardEntry, ...] = ()
    """This rank's, if there is a version and whoever tells knows them."""
    persist_s: float | None = None
    """Seconds from the begin of its copy to the commit, of the slowest rank; None: it was dropped."""
    stall_s: float = 0.0
    """Seconds that training stood still for it, of the slowest rank."""
    bytes: int = 0
    bytes_new: int = 0
    """As sent: those that no earlier version held already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a rank printed or logged."""

    rank: int
    level: int
    """As in `logging`."""
    text: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PawlEvent:
    """Something worth telling a person, in order of happening."""

    kind: str
    """`committed`, `dropped`, `fence_lost`, `budget_spent`, `verdict`, `actor_restarted` …"""
    message: str
    at: str
    details: Mapping[str, Any] = field(default_factory=dict)
