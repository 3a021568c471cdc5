"""What a run's log says, as one value: attempts, versions, tags, pins, damage (FORMAT.md §5).

`RunState` is the one mutable value here: it is owned by the `log` that folds into it, and everything inside it is
frozen. Readers look at it and never change it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_workers.store.bodies import (
    PassedOver,
    RunOrigin,
    VersionName,
)

__all__ = [
    "FOLD_VERSION",
    "RUNGS",
    "AttemptState",
    "PinState",
    "RunState",
    "VersionState",
    "rung_at_least",
]

FOLD_VERSION = 5
"""Raised whenever the meaning of any record or of this state changes; a cache of another value is ignored."""

RUNGS = ("committed", "verified", "sound", "restorable")


def rung_at_least(rung: str, required: str) -> bool:
    """Whether `rung` satisfies `required`; `quarantined` satisfies nothing."""
    return rung in RUNGS and RUNGS.index(rung) >= RUNGS.index(required)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionState:
    number: int
    manifest: str
    fence: int
    slot: int
    step: int
    bytes: int
    base: int | None
    at: str
    status: str = "live"
    """`live`, `retired`, `condemned` or `swept`."""
    retired_slot: int | None = None
    """Of the newest Retire that names it; its time, by the store's clock, is when the grace period began."""
    abandoned: bool = False
    passed: tuple[str, ...] = ()
    """Checks passed and still counting; a damaged slot above empties it."""
    quarantine: str | None = None
    """The reason, once any check failed."""
    bad_bytes: bool = False
    verified_slot: int | None = None
    """Of the newest verdict on its bytes, good or bad."""
    norm: float | None = None
    """L2 norm of all parameters, as the check `sound` found it."""
    update_rate: float | None = None
    """L2 norm of their change from the parent, per step, as the same check found it."""

    @property
    def name(self) -> VersionName:
        return VersionName(number=self.number, manifest=self.manifest)

    @property
    def rung(self) -> str:
        """How far this version is trusted: one of `RUNGS`, or `quarantined`."""
        if self.quarantine is not None:
            return "quarantined"
        return next((rung for rung in reversed(RUNGS) if rung in self.passed), RUNGS[0])

    @property
    def readable(self) -> bool:
        """Its bytes are still promised to be there."""
        return self.status in ("live", "retired")

    @property
    def candidate(self) -> bool:
        """May be picked as resume point if its rung allows."""
        return self.readable and not self.abandoned and self.quarantine is None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptState:
    fence: int
    flow_run_id: str
    run_count: int
    incarnation: int
    by: Mapping[str, Any]
    at: str
    outcome: str | None = None
    reason: str | None = None
    ended_at: str | None = None
    resume: VersionName | None = None
    resume_origin: RunOrigin | None = None
    resume_at: str | None = None
    """Time of the ResumeChosen record; None: no choice was recorded yet."""
    passed_over: tuple[PassedOver, ...] = ()
    required: str | None = None
    last_commit: int | None = None
    last_step: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class PinState:
    child: str
    child_run_id: str
    version: int


@dataclass(slots=True, kw_only=True)
class RunState:
    """What the log says up to and including `slot`."""

    run: str
    slot: int = 0
    head: str | None = None
    """Digest of the last effective record."""
    head_slot: int = 0
    """Its slot."""
    run_id: str | None = None
    origin: RunOrigin | None = None
    created_at: str | None = None
    deleted: bool = False
    open_fence: int | None = None
    highest_number: int = 0
    damaged: tuple[int, ...] = ()
    unrepaired: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()
    """Kinds met that this program does not know: it may read on, and must not write."""
    attempts: dict[int, AttemptState] = field(default_factory=dict)
    versions: dict[int, VersionState] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    pins: dict[str, PinState] = field(default_factory=dict)

    @property
    def damage_above_head(self) -> bool:
        """Whatever stands above the last effective record is damaged or void, and some of it damaged."""
        return bool(self.damaged) and self.damaged[-1] > self.head_slot

    @property
    def exists(self) -> bool:
        return self.run_id is not None and not self.deleted

    @property
    def open_attempt(self) -> AttemptState | None:
        return None if self.open_fence is None else self.attempts.get(self.open_fence)

    @property
    def next_number(self) -> int:
        """A damaged slot may have held a Commit, so its number is never given again."""
        return self.highest_number + 1 + len(self.damaged)

    def newest_first(self) -> list[VersionState]:
        return [self.versions[number] for number in sorted(self.versions, reverse=True)]

    def find(self, name: VersionName) -> VersionState | None:
        """The version of that number and that manifest; a mismatch is None."""
        version = self.versions.get(name.number)
        return version if version is not None and version.manifest == name.manifest else None

    def writer_before(self, attempt: AttemptState) -> AttemptState | None:
        """The writer whose place `attempt` took while training went on: that of a checkpoint actor that died.

        None: there was none, or `attempt` chose what to resume itself, or damage hides what was in between.
        """
        before = max(
            (a for a in self.attempts.values() if a.fence < attempt.fence),
            key=lambda a: a.fence,
            default=None,
        )
        if before is None or before.outcome is not None or attempt.resume_at is not None:
            return None
        hidden = any(before.fence < slot < attempt.fence for slot in self.damaged)
        follows = before.incarnation + 1 == attempt.incarnation
        return before if follows and not hidden else None

    def begun(self, attempt: AttemptState) -> AttemptState:
        """`attempt` with where its training began.

        One that took another writer's place chose nothing: it goes on from that one's newest version, else from where
        that one began, from its own start on.
        """
        at = attempt
        while (before := self.writer_before(at)) is not None:
            at = before
            version = None if at.last_commit is None else self.versions.get(at.last_commit)
            if version is not None:
                return replace(attempt, resume=version.name, resume_at=attempt.at)
        if at is attempt or at.resume_at is None:
            return attempt
        return replace(
            attempt, resume=at.resume, resume_origin=at.resume_origin, resume_at=attempt.at
        )

    def protected(self) -> dict[int, str]:
        """Version number to the reason why it may be neither retired nor condemned now (FORMAT.md §7)."""
        found: dict[int, str] = {}

        def protect(number: int | None, why: str) -> None:
            if number is not None and number in self.versions:
                found.setdefault(number, why)

        for tag, number in sorted(self.tags.items()):
            protect(number, f"tagged {tag}")
        for pin in self.pins.values():
            protect(pin.version, f"fork {pin.child} starts from it")
        attempt = self.open_attempt
        if attempt is not None:
            in_this_run = attempt.resume is not None and attempt.resume_origin is None
            protect(
                attempt.resume.number if attempt.resume and in_this_run else None, "resume point"
            )
            protect(attempt.last_commit, "newest version of the running attempt")
        for number, why in self._protected_by_rung():
            protect(number, why)
        return found

    def _protected_by_rung(self) -> list[tuple[int, str]]:
        kept = [v for v in self.newest_first() if v.readable and not v.abandoned]
        good = [v for v in kept if v.quarantine is None]
        sound = [v for v in good if rung_at_least(v.rung, "sound")]
        pending = [v for v in good if not rung_at_least(v.rung, "sound")]
        above = [v for v in pending if not sound or v.number > sound[0].number]
        return (
            [(v.number, "newest version") for v in good[:1]]
            + [(v.number, "one of the two newest sound versions") for v in sound[:2]]
            + [(v.number, "newest restorable") for v in good if v.rung == "restorable"][:1]
            + [(v.number, "waits for validation") for v in (*above[:1], *above[-1:])]
        )

    def become(self, other: RunState) -> None:
        """Take over all that `other` says."""
        for field_ in dataclasses.fields(self):
            setattr(self, field_.name, getattr(other, field_.name))
