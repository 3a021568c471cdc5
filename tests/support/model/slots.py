"""The slots of one log as a checkable model: PUTs that land late, lost answers, damage, holes, a prefix deleted by hand.

Attempt A holds fence 1 and wants to commit once; A2 is a second incarnation of it; B is a new attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tests.support.model.explorer import Violation
from tests.support.model.slots_actors import actor_steps, landings
from tests.support.model.slots_caches import cache_steps, end_steps, look
from tests.support.model.slots_state import (
    NO_FAULTS,
    PROTOCOL,
    Actor,
    Fold,
    Guards,
    Kind,
    Record,
    Scenario,
    Slots,
    Stage,
    fold,
)

__all__ = ["Invariant", "SlotsModel"]

_MOST_SLOTS = 6
_MOST_IN_FLIGHT = 3
_PLAIN = Scenario()


class Invariant(StrEnum):
    FENCED = "nothing is committed under a fence that was lost"
    OF_THIS_RUN = "no record of a deleted run counts in the new one"
    REPORTED_STAYS = "what was reported as committed counts, unless its own slot was lost"
    REPORTED_FAILED = "what was reported as failed never counts"
    ONE_COMMIT = "one fence, one writer: nobody else commits under it"
    NUMBERS = "no version number is given twice"
    USABLE = "a new attempt can take its fence"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsModel:
    scenario: Scenario = _PLAIN
    guards: Guards = PROTOCOL

    def initial(self) -> Slots:
        created = Record(Kind.START, 1, "r1", None, "s1", 1)
        log = ((1, created),)
        known = fold(log, self.guards) if self.scenario.warm else None
        actors = (
            Actor("A", Stage.COMMIT, 1, known=known, opened=known is not None),
            Actor("A2", Stage.START, 0),
            Actor("B", Stage.START, 0),
        )
        return Slots(
            log,
            (),
            actors,
            left=self.scenario.faults,
            ends_left=self.scenario.ends,
        )

    def steps(self, state: Slots) -> Iterator[tuple[str, Slots]]:
        for name, after in self._all_steps(state):
            if len(after.log) <= _MOST_SLOTS and len(after.in_flight) <= _MOST_IN_FLIGHT:
                yield name, after

    def _all_steps(self, state: Slots) -> Iterator[tuple[str, Slots]]:
        yield from landings(state)
        if self.scenario.wipe and not state.wiped and len(state.log) >= 2:
            yield "user deletes the prefix by hand", state._replace(log=(), wiped=True)
        yield from self._faults(state)
        for index in range(len(state.actors)):
            yield from actor_steps(state, self.guards, index, warm=self.scenario.warm)
        yield from cache_steps(state, self.guards, self.scenario)
        if self.scenario.ends:
            yield from end_steps(state, self.guards)

    def _faults(self, state: Slots) -> Iterator[tuple[str, Slots]]:
        if state.left == NO_FAULTS:
            return
        for slot, record in state.log:
            if record is None:
                continue
            without = tuple(entry for entry in state.log if entry[0] != slot)
            after = state._replace(lost=(*state.lost, record))
            if state.left.damage:
                log = tuple(sorted([*without, (slot, None)]))
                left = state.left._replace(damage=state.left.damage - 1)
                yield f"slot {slot} is damaged", after._replace(log=log, left=left)
            if state.left.holes and self._may_disappear(state, slot):
                left = state.left._replace(holes=state.left.holes - 1)
                yield f"slot {slot} disappears", after._replace(log=without, left=left)
            if state.left.tails and slot > 1 and self._end_may_disappear(state, slot):
                yield f"the log disappears from slot {slot} on", _without_tail(state, slot)

    def _may_disappear(self, state: Slots, slot: int) -> bool:
        if slot == 1 or slot == state.log[-1][0]:
            return False
        return self.scenario.stragglers or slot not in self._aimed_at(state)

    def _end_may_disappear(self, state: Slots, first: int) -> bool:
        """Only if a cache is a witness: without one it cannot be found out."""
        witnessed = any(cache.fold.slot == state.log[-1][0] for cache in state.caches)
        return witnessed and first > max(self._aimed_at(state), default=0)

    def _aimed_at(self, state: Slots) -> set[int]:
        """The slots to which a PUT may still be under way."""
        waiting = (actor.sent for actor in state.actors if actor.sent is not None)
        return {record.slot for record in (*state.in_flight, *waiting)}

    def violation(self, before: Slots, after: Slots) -> Violation | None:
        del before
        seen = look(after, self.guards)
        return (
            _fenced(after, seen)
            or _foreign(seen)
            or _reports(after, seen)
            or _doubled(after, seen)
            or _fence_taken_in_vain(after, seen)
            or self._unusable(after, seen)
        )

    def _unusable(self, state: Slots, seen: Fold) -> Violation | None:
        """A start record above all that is there must count and hold the fence."""
        slot = seen.slot + 1
        run = seen.run or "r3"
        start = Record(Kind.START, slot, run, seen.prev(self.guards), "probe", slot)
        taken = {entry[0] for entry in state.log}
        if slot in taken:
            return None
        probed = state._replace(log=tuple(sorted([*state.log, (slot, start)])))
        if start in look(probed, self.guards).records:
            return None
        return Violation(Invariant.USABLE, f"a start in slot {slot} has no effect")


def _without_tail(state: Slots, first: int) -> Slots:
    gone = tuple(record for slot, record in state.log if slot >= first and record is not None)
    return state._replace(
        log=tuple(entry for entry in state.log if entry[0] < first),
        lost=(*state.lost, *gone),
        left=state.left._replace(tails=state.left.tails - 1),
    )


def _fenced(state: Slots, seen: Fold) -> Violation | None:
    ever = (*seen.records, *state.lost)
    for record in seen.records:
        before = [other for other in ever if other.slot < record.slot]
        newest = max((other.slot for other in before if other.kind == Kind.START), default=0)
        ended = any(r.kind == Kind.END and r.fence == record.fence for r in before)
        if record.kind == Kind.COMMIT and (record.fence != newest or ended):
            detail = f"{record.write_id} of fence {record.fence} counts after fence {newest}"
            return Violation(Invariant.FENCED, detail + " was ended" * ended)
    return None


def _foreign(seen: Fold) -> Violation | None:
    for record in seen.records:
        if record.run != seen.records[0].run:
            return Violation(Invariant.OF_THIS_RUN, record.write_id)
    return None


def _reports(state: Slots, seen: Fold) -> Violation | None:
    log = dict(state.log)
    counting = {record.write_id for record in seen.records}
    for report in state.reports:
        write_id = report.record.write_id
        if not report.committed and write_id in counting:
            return Violation(Invariant.REPORTED_FAILED, write_id)
        stands = log.get(report.record.slot) == report.record
        if report.committed and stands and write_id not in counting and not state.wiped:
            return Violation(Invariant.REPORTED_STAYS, write_id)
    return None


def _doubled(state: Slots, seen: Fold) -> Violation | None:
    commits = [record for record in seen.records if record.kind == Kind.COMMIT]
    if len({record.fence for record in commits}) < len(commits):
        return Violation(Invariant.ONE_COMMIT, ", ".join(r.write_id for r in commits))
    ever = {r.digest: r.number for r in (*commits, *state.lost) if r.kind == Kind.COMMIT}
    if len(set(ever.values())) < len(ever):
        return Violation(Invariant.NUMBERS, ", ".join(sorted(ever)))
    return None


def _fence_taken_in_vain(state: Slots, seen: Fold) -> Violation | None:
    log = dict(state.log)
    for actor in state.actors:
        start = log.get(actor.fence)
        own = start is not None and start.write_id == f"s{actor.name}"
        if actor.stage == Stage.COMMIT and own and start not in seen.records and not state.wiped:
            return Violation(Invariant.USABLE, f"the start of {actor.name} has no effect")
    return None
