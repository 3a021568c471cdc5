"""The slots of one log, as a model: records, faults, and how a reader folds what it finds.

Slot 1 holds the start of attempt A, which creates the run too. States are named tuples, because many are hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import NamedTuple

__all__ = [
    "ALL_GUARDS",
    "NO_FAULTS",
    "PROTOCOL",
    "Actor",
    "Cache",
    "Content",
    "Faults",
    "Fold",
    "Guard",
    "Guards",
    "Kind",
    "Log",
    "Record",
    "Report",
    "Scenario",
    "Slots",
    "Stage",
    "after_damage",
    "fold",
]


class Guard(StrEnum):
    """A rule of the protocol that can be taken away."""

    REPEAT_UNTIL_TAKEN = "an unanswered PUT is repeated until its slot is taken"
    CHAIN = "a record counts only if it continues its run's chain"
    INCARNATION = "each incarnation of a writer takes its own fence"
    DAMAGE_CLOSES_FENCE = "a fence below a damaged slot counts as lost"
    NEXT_ON_RUN_ID = "the record above a damaged slot is accepted on its run id alone"
    DAMAGED_PREV = "who appends above a damaged slot says so, and that is accepted by all"
    NUMBER_SKIPS_DAMAGE = "a damaged slot may have held a Commit, so its number is not given again"
    HOLE_IS_DAMAGE = "a free slot below one of the same run counts as damaged"
    FILLER = "a hole is occupied before anything is built above it"
    FIND_OWN = "who folds on after a conflict looks for its own write id"
    CACHE_VERSION = "a cache of another fold version is ignored"
    CACHE_HEAD = "a cache counts only if the log continues it"
    BEYOND_THE_END = "a cache above the end of the log shows that the end was lost"
    READ_AGAIN = "slots below such a cache are read again before they count as lost"
    CONTRADICTED = "a record that the next of its run does not continue counts as damaged"


Guards = frozenset[Guard]
ALL_GUARDS: Guards = frozenset(Guard)
PROTOCOL: Guards = ALL_GUARDS
"""What the protocol asks for."""


class Kind(StrEnum):
    START = "AttemptStarted"
    COMMIT = "Commit"
    END = "AttemptEnded"
    FILLER = "Filler"


class Record(NamedTuple):
    kind: Kind
    slot: int
    run: str
    prev: str | None
    write_id: str
    fence: int
    number: int = 0

    @property
    def digest(self) -> str:
        return f"{self.write_id}@{self.slot}"


Content = Record | None
"""What a taken slot holds; None: bytes that are no record."""
Log = tuple[tuple[int, Content], ...]
"""The taken slots, in order."""


class Stage(StrEnum):
    START = "wants a fence"
    COMMIT = "wants to commit"
    WAIT = "waits for an answer"
    DONE = "done"
    LOST = "fence lost"


class Fold(NamedTuple):
    """What a reader makes of the slots."""

    slot: int = 0
    """The last slot folded; the next record goes above it."""
    run: str | None = None
    head: str | None = None
    fence: int | None = None
    highest: int = 0
    damaged: tuple[int, ...] = ()
    holes: tuple[int, ...] = ()
    records: tuple[Record, ...] = ()
    """Those that have an effect."""

    @property
    def head_slot(self) -> int:
        return max((record.slot for record in self.records), default=0)

    @property
    def damage_above_head(self) -> int:
        """The last damaged slot, if nothing above it has an effect; else 0."""
        last = max(self.damaged, default=0)
        return last if last > self.head_slot else 0

    def prev(self, guards: Guards) -> str | None:
        """What the next record gives as the one it continues."""
        if Guard.DAMAGED_PREV in guards and self.damage_above_head:
            return f"damaged:{self.damage_above_head}"
        return self.head

    def next_number(self, guards: Guards) -> int:
        skipped = len(self.damaged) if Guard.NUMBER_SKIPS_DAMAGE in guards else 0
        return self.highest + 1 + skipped


class Actor(NamedTuple):
    name: str
    stage: Stage
    fence: int
    sent: Record | None = None
    known: Fold | None = None
    """What it folded, if it keeps that and goes on from there."""
    opened: bool = False
    """Whether it has looked for caches above the end."""


class Report(NamedTuple):
    name: str
    committed: bool
    record: Record


class Faults(NamedTuple):
    """What may still go wrong."""

    damage: int = 0
    """Records that turn into bytes that are no record, for everybody and for ever."""
    misreads: int = 0
    """Times that a reader finds a sound record damaged, alone and this once."""
    holes: int = 0
    """Records that disappear, but never slot 1: without it a log looks like one wiped by hand."""

    tails: int = 0
    """Times that the end of the log disappears, from some slot on."""


class Cache(NamedTuple):
    """A fold that somebody stored. `older` is the work of a program that does not know AttemptEnded."""

    fold: Fold
    older: bool


NO_FAULTS = Faults()


class Slots(NamedTuple):
    log: Log
    in_flight: tuple[Record, ...]
    actors: tuple[Actor, ...]
    wiped: bool = False
    """A person deleted the prefix by hand."""
    reports: tuple[Report, ...] = ()
    lost: tuple[Record, ...] = ()
    """What once stood in slots that are damaged or gone now."""
    left: Faults = NO_FAULTS
    caches: tuple[Cache, ...] = ()
    ends_left: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    wipe: bool = False
    """A person may delete the prefix by hand."""
    faults: Faults = NO_FAULTS
    stragglers: bool = False
    """Whether a PUT may still be under way to a slot when its record disappears."""
    caches: int = 0
    """How many fold caches are stored, at any time."""
    older_caches: bool = False
    """Whether they are the work of an older program."""
    ends: int = 0
    """How many times somebody ends the attempt that holds the fence."""
    warm: bool = False
    """Actors open the log once, in two steps, keep what they folded, and it is this that they cache."""


@cache  # few logs, many states
def fold(
    log: Log,
    guards: Guards,
    misread: int | None = None,
    start: Fold = Fold(),  # noqa: B008 - frozen
    *,
    older: bool = False,
) -> Fold:
    """Fold slot by slot, from a cached fold if `start` is one.

    `misread` is a slot that this reader, alone and this once, finds damaged. An `older` program does not know what
    AttemptEnded means.
    """
    contents = dict(log)
    state = start
    while (slot := state.slot + 1) <= max(contents, default=0):
        if slot not in contents:
            if Guard.HOLE_IS_DAMAGE not in guards or not _own_above(state, contents):
                return state
            state = state._replace(holes=(*state.holes, slot))
        content = None if slot == misread else contents.get(slot)
        if content is None or (content.kind == Kind.FILLER and content.run == state.run):
            state = after_damage(state, guards)
        elif Guard.CHAIN in guards and not _continues(state, content, guards):
            state = state._replace(slot=slot)
        elif Guard.CONTRADICTED in guards and _contradicted(content, contents):
            state = after_damage(state, guards)
        else:
            state = _after_record(state, content, older=older)
    return state


def _contradicted(record: Record, contents: Mapping[int, Content]) -> bool:
    slot = record.slot + 1
    while (above := contents.get(slot)) is not None and above.run != record.run:
        slot += 1
    if above is None or above.kind == Kind.FILLER:
        return False
    said = {f"damaged:{between}" for between in range(record.slot, slot)}
    return above.prev != record.digest and above.prev not in said


def _own_above(state: Fold, contents: Mapping[int, Content]) -> bool:
    above = (content for slot, content in contents.items() if slot > state.slot)
    return any(content is not None and content.run == state.run for content in above)


def after_damage(state: Fold, guards: Guards) -> Fold:
    slot = state.slot + 1
    fence = None if Guard.DAMAGE_CLOSES_FENCE in guards else state.fence
    return state._replace(slot=slot, damaged=(*state.damaged, slot), fence=fence)


def _after_record(state: Fold, record: Record, *, older: bool) -> Fold:
    after = state._replace(
        slot=state.slot + 1,
        run=state.run or record.run,
        head=record.digest,
        records=(*state.records, record),
    )
    if record.kind == Kind.START:
        return after._replace(fence=record.slot)
    if record.kind == Kind.END:
        return after if older else after._replace(fence=None)
    return after._replace(highest=max(state.highest, record.number))


def _continues(state: Fold, record: Record, guards: Guards) -> bool:
    """Otherwise the record is void: it holds its slot and has no effect."""
    above_damage = state.damage_above_head > 0 and Guard.NEXT_ON_RUN_ID in guards
    if state.run is None:
        return record.prev is None or above_damage
    if record.run != state.run:
        return False
    between = {f"damaged:{slot}" for slot in range(state.head_slot, state.slot + 1)}
    says_damaged = Guard.DAMAGED_PREV in guards and record.prev in between
    return above_damage or says_damaged or record.prev == state.head
