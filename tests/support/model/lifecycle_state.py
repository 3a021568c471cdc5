"""The life of versions and their bytes, as a model: what a state is, which guards there are, what is protected.

Two versions of a run exist (three in one scenario); `D` and `F` are shards that a later version may refer to again,
`e1`, `e2` … belong to one version each. W1 is the attempt that is about to be overtaken, W2 the new one. The states
are named tuples, not dataclasses, because more than a million of them are hashed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "ALL_GUARDS",
    "Fork",
    "Guard",
    "Guards",
    "Phase",
    "Reader",
    "ReaderPhase",
    "Scenario",
    "Sent",
    "Status",
    "Verdict",
    "Version",
    "World",
    "Writer",
    "appended",
    "is_dead",
    "protected",
]


class Guard(StrEnum):
    """A rule of the protocol that can be taken away (protocol section 9, `[M]`)."""

    NONCE_IN_KEY = "every upload try has a key of its own"
    FENCE_IN_KEY = "a data key holds its writer's fence"
    CONDEMN_RECORD = "a Condemn record stands before any delete"
    BASE_CHECK = "a commit checks that its base is not condemned"
    ORPHANS_BY_FENCE = "orphans are those of a closed fence, not those of some age"
    RESUME_RECORD = "the resume point is recorded before the first read"
    FOLD_AFTER_404 = "after a 404 the log is folded again before a verdict"
    PROTECTION_AT_CONDEMN = "Condemn checks protection again"
    KEEP_UPLOADS = "uploads stay after an ambiguous commit"
    FENCE_CHECK = "a commit checks its fence"
    TAG_CHECK = "a tag refuses a condemned version"
    TWO_SOUND = "the two newest sound versions are protected"
    PIN_FIRST = "a fork pins its origin before the child exists"


Guards = frozenset[Guard]
ALL_GUARDS: Guards = frozenset(Guard)


class Verdict(StrEnum):
    PENDING = "?"
    SOUND = "+"
    BAD = "-"


class Status(StrEnum):
    LIVE = "live"
    RETIRED = "retired"
    CONDEMNED = "condemned"


class Version(NamedTuple):
    name: str
    keys: frozenset[str]
    verdict: Verdict = Verdict.PENDING
    status: Status = Status.LIVE


class Phase(StrEnum):
    OFF = "off"
    PICK = "pick"
    """W2 holds the fence and has no resume point yet."""
    READ = "read"
    NOTHING_SOUND = "nothing sound"
    READ_FAILED = "read failed"
    PLAN = "plan"
    UPLOAD = "upload"
    READY = "ready"
    SENT = "sent"
    DONE = "done"
    LOST = "fence lost"
    GAVE_UP = "gave up"


class Writer(NamedTuple):
    phase: Phase
    base: str | None = None
    shared: str | None = None
    """The key under which this commit refers to the shard that its base has too; None: to be uploaded."""
    reading: str | None = None
    unread: tuple[str, ...] = ()


class ReaderPhase(StrEnum):
    IDLE = "idle"
    READ = "read"
    FALSE_ALARM = "false alarm"


class Reader(NamedTuple):
    phase: ReaderPhase
    version: str | None = None
    unread: tuple[str, ...] = ()


class Fork(StrEnum):
    NONE = "none"
    PICKED = "picked"
    PINNED = "pinned"
    CHILD = "child exists"


class Sent(NamedTuple):
    """A Commit that was put and not answered: it lands whenever it likes, unless its slot is taken first."""

    writer: int
    version: Version


class World(NamedTuple):
    open_fence: int
    versions: tuple[Version, ...]
    objects: frozenset[str]
    doomed: frozenset[str]
    """Keys that some sweeper decided to delete. It only grows: a delete may land at any time, and again and again."""
    w1: Writer
    w2: Writer
    validator: Reader
    tag: str | None
    resume: str | None
    """The recorded resume point of the open fence."""
    sent: Sent | None
    base_of_w2: str | None
    fork: Fork

    def version(self, name: str) -> Version:
        return next(version for version in self.versions if version.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    tagger: bool = False
    forker: bool = False
    demotion: bool = False
    """The validator may look at a sound version again and demote it, once."""
    three_sound: bool = False


def is_dead(version: Version, guards: Guards) -> bool:
    """Whether nothing may pick the version any more. Without Condemn records, Retire has to mean that."""
    if Guard.CONDEMN_RECORD in guards:
        return version.status == Status.CONDEMNED
    return version.status != Status.LIVE


def appended(
    world: World, name: str, *, verdict: Verdict | None = None, status: Status | None = None
) -> World:
    """`world` after a record that changes one version. It takes the next slot, so a Commit under way cannot land."""
    versions = tuple(
        v._replace(verdict=verdict or v.verdict, status=status or v.status) if v.name == name else v
        for v in world.versions
    )
    return world._replace(versions=versions, sent=None)


def protected(world: World, guards: Guards, *, at_condemn: bool = False) -> set[str]:
    """Names of versions that may not be retired (or condemned) now."""
    again = Guard.PROTECTION_AT_CONDEMN in guards
    undead = [v for v in world.versions if v.status != Status.CONDEMNED]
    live = [v for v in world.versions if v.status == Status.LIVE]
    good = [v for v in (undead if at_condemn and again else live) if v.verdict != Verdict.BAD]
    sound = [v for v in (undead if again else live) if v.verdict == Verdict.SOUND]
    kept = {v.name for v in good[-1:]}
    kept |= {v.name for v in sound[-2 if Guard.TWO_SOUND in guards else -1 :]}
    kept |= {name for name in (world.tag, world.resume) if name is not None}
    if world.fork == Fork.PINNED or (world.fork == Fork.CHILD and Guard.PIN_FIRST in guards):
        kept.add("v1")
    return kept
