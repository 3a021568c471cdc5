"""What one process told the world: the promises that the log and the bytes are held to."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_workers.store.bodies import VersionName

__all__ = ["Resumed", "Told"]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A process restored from `version` (None: from nothing) of `run` under `fence`."""

    run: str
    fence: int
    version: VersionName | None
    whole: bool
    """Whether every byte could be read when it was restored."""
    foreign: bool = False
    """It belongs to the run that this one was forked from."""


@dataclass(slots=True)
class Told:
    committed: list[str] = field(default_factory=list)
    """Manifest digests of versions reported as committed."""
    numbers: list[tuple[str, int]] = field(default_factory=list)
    """The runs and numbers they were reported under."""
    failed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    fences: list[tuple[str, int]] = field(default_factory=list)
    """Run and fence of each start that succeeded."""
    resumed: list[Resumed] = field(default_factory=list)
    appended: list[str] = field(default_factory=list)
    """Write ids of the other records that the process believes to stand in the log."""
    ended: str = "running"
    """`done`, `died`, or the kind of our error that ended it."""
