"""A run as a person should see it: plain values, complete enough to draw every picture and table of its page.

Whoever folds the log fills these; whoever renders them reads nothing else. So a page is a function of one value.
Times are UTC, ISO 8601. A version is named as text: `"3"` in this run, `"other@3"` in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AttemptRow", "ReportProgress", "RunReport", "VersionRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    number: int
    step: int
    epoch: int
    metrics: Mapping[str, float]
    bytes: int
    rung: str
    """`committed`, `verified`, `sound`, `restorable` or `quarantined`."""
    reason: str | None = None
    """Why it is quarantined, or why its manifest cannot be used; then `world_size` is 0 and the config unknown."""
    digest: str
    """Of the manifest, hex."""
    fence: int
    attempt: int
    """Number of the `AttemptRow` that committed it."""
    parent: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """The hyperparameters; secrets never get this far."""
    committed_at: str
    world_size: int
    tags: tuple[str, ...] = ()
    status: str = "live"
    """`live`, `retired`, `condemned`, `swept`, or `abandoned` by a rollback."""
    interrupted: str | None = None
    """What asked its attempt to end, when it was saved for that."""
    duration_s: float | None = None
    """From the start of the save to the commit."""
    throughput_bytes_s: float | None = None
    startup: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase of the start of the attempt that made it (`startup.PHASES`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    number: int
    """From 1, in the order of the fences."""
    fence: int
    incarnation: int
    flow_run_id: str
    run_count: int
    started_at: str
    ended_at: str | None = None
    outcome: str | None = None
    """None while it runs."""
    reason: str | None = None
    """Why it ended, when it did not complete."""
    restarted: bool = False
    """Its checkpoint actor took the place of the one before, while training went on."""
    resumed_from: str | None = None
    """None: it started from nothing, or what it started from is not known. Of one `restarted`: the version it went on from."""
    resume_step: int | None = None
    """The step of `resumed_from`; needed only when that version is in another run."""
    resumed_at: str | None = None
    """When the choice was recorded; None: none is known."""
    asked: str | None = None
    """Where its flow run was told to begin, and it did: `never`, or a version of this run; None: it chose by itself."""
    required: str | None = None
    """The rung that a resume point had to have."""
    passed_over: tuple[tuple[str, str], ...] = ()
    """Newer candidates that were not taken: name and reason, newest first."""
    steps_lost: int | None = None
    """Steps above the resume point that the attempt before is known to have done, and that are done again: a lower bound."""
    seconds_lost: float | None = None
    """From the resume point's commit to this attempt's start, less what an earlier attempt has counted."""
    host: str

    @property
    def resumed(self) -> bool:
        """Training began here, from a version."""
        return self.resumed_from is not None and not self.restarted

    @property
    def undecided(self) -> bool:
        """It has not chosen yet what to start from, or that it did is not recorded."""
        return self.resumed_from is None and self.resumed_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportProgress:
    step: int
    epoch: int
    """Epochs begun, from 0."""
    epochs_wanted: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    run: str
    run_id: str
    url: str
    """Of the store's root, without credentials."""
    versions: tuple[VersionRow, ...]
    """By number, oldest first."""
    attempts: tuple[AttemptRow, ...]
    """By number, oldest first."""
    curve: tuple[tuple[int, float, int], ...]
    """`(step, loss, attempt)` of the present state's line, ascending."""
    series: Mapping[str, tuple[tuple[int, float, int], ...]] = field(default_factory=dict)
    """Every other metric by name, as `curve`."""
    forked_from: str | None = None
    damaged_slots: tuple[int, ...] = ()
    progress: ReportProgress
    generated_at: str
    retention: tuple[str, ...] = ()
    """What retention kept and retired, one sentence each."""
    interval: tuple[tuple[str, str], ...] = ()
    """The interval between saves, and what speaks for it: name and text of each line (`interval_account`)."""

    @property
    def newest_sound(self) -> VersionRow | None:
        """The version that the next attempt would resume from, were it to start now."""
        return next(
            (
                version
                for version in reversed(self.versions)
                if version.rung in ("sound", "restorable") and version.status in ("live", "retired")
            ),
            None,
        )

    @property
    def last_attempt(self) -> AttemptRow | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def status(self) -> str:
        """`new`, `running`, or how the last attempt ended."""
        attempt = self.last_attempt
        if attempt is None:
            return "new"
        return attempt.outcome or "running"
