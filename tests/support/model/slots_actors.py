"""The steps of those who append: take a fence, commit, and find out what became of a PUT; and of the PUTs themselves."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.model.slots_caches import advanced, begin, beyond_the_end, free_holes, look
from tests.support.model.slots_state import (
    Actor,
    Fold,
    Guard,
    Guards,
    Kind,
    Record,
    Report,
    Slots,
    Stage,
    fold,
)

__all__ = ["actor_steps", "landings", "with_record"]

Steps = Iterator[tuple[str, Slots]]


def landings(slots: Slots) -> Steps:
    """A PUT that is under way arrives: it takes its slot, or finds it taken."""
    taken = {slot for slot, _ in slots.log}
    for record in slots.in_flight:
        rest = slots._replace(in_flight=tuple(r for r in slots.in_flight if r != record))
        if record.slot in taken:
            yield f"PUT {record.write_id} dies", rest
        else:
            landed = with_record(rest, record)
            yield f"PUT {record.write_id} lands on slot {record.slot}", landed


def actor_steps(slots: Slots, guards: Guards, index: int, *, warm: bool = False) -> Steps:
    """`warm`: an actor opens the log once, in two steps, and goes on from what it folded then."""
    actor = slots.actors[index]
    if actor.stage == Stage.WAIT:
        yield from _wait(slots, guards, index)
        if slots.left.misreads:
            yield from _misread_answer(slots, index)
    elif actor.stage in (Stage.START, Stage.COMMIT) and not _knows_only_the_past(slots, actor):
        if warm:
            yield from _decide_warm(slots, guards, index)
        else:
            yield from _decide(slots, guards, index, look(slots, guards))
        if slots.left.misreads:
            yield from _decide_on_misread(slots, guards, index)


def _decide_warm(slots: Slots, guards: Guards, index: int) -> Steps:
    actor = slots.actors[index]
    if actor.known is None:
        read = actor._replace(known=begin(slots, guards))
        yield f"{actor.name} reads the log", _moved(slots, index, read)
    elif not actor.opened:
        known = beyond_the_end(slots, guards, actor.known)
        looked = actor._replace(known=known, opened=True)
        yield f"{actor.name} looks for caches above the end", _moved(slots, index, looked)
    else:
        yield from _decide(slots, guards, index, advanced(slots, guards, actor.known))


def _knows_only_the_past(slots: Slots, actor: Actor) -> bool:
    """After the wipe only B is new; what the others still do is in the PUTs they have sent."""
    return slots.wiped and actor.name != "B"


def _decide_on_misread(slots: Slots, guards: Guards, index: int) -> Steps:
    unlucky = _one_misread_less(slots)
    for slot, content in slots.log:
        if content is not None and slot > 1:
            seen = fold(slots.log, guards, slot)
            for name, after in _decide(unlucky, guards, index, seen):
                yield f"{name}, having misread slot {slot}", after


def _misread_answer(slots: Slots, index: int) -> Steps:
    sent = slots.actors[index].sent
    if sent is not None and dict(slots.log).get(sent.slot) is not None:
        unlucky = _one_misread_less(slots)
        for name, after in _answered(unlucky, index, sent, None):
            yield f"{name}, having misread slot {sent.slot}", after


def _one_misread_less(slots: Slots) -> Slots:
    return slots._replace(left=slots.left._replace(misreads=slots.left.misreads - 1))


def _decide(slots: Slots, guards: Guards, index: int, seen: Fold) -> Steps:
    """Check the rule on what was folded, and send the record to the slot above."""
    actor = slots.actors[index]
    own = [record for record in seen.records if record.write_id == _write_id(actor)]
    if own and Guard.FIND_OWN in guards:
        yield from _answered(slots, index, own[0], own[0])
    elif (free := free_holes(slots, seen)) and Guard.FILLER in guards:
        filler = Record(Kind.FILLER, free[0], str(seen.run), None, f"f{actor.name}", 0)
        name = f"{actor.name} creates a Filler in slot {filler.slot}"
        yield name, with_record(slots, filler)
    elif actor.stage == Stage.COMMIT:
        yield _commit(slots, guards, index, seen)
    elif actor.name == "A2" and Guard.INCARNATION not in guards:
        same = actor._replace(stage=Stage.COMMIT, fence=1)
        yield "A2 starts under the same fence 1", _moved(slots, index, same)
    else:
        yield _start(slots, guards, index, seen)


def _start(slots: Slots, guards: Guards, index: int, seen: Fold) -> tuple[str, Slots]:
    actor, slot = slots.actors[index], seen.slot + 1
    new_run = "r2" if slots.wiped or seen.damaged else "r1"
    record = Record(
        Kind.START, slot, seen.run or new_run, seen.prev(guards), _write_id(actor), slot
    )
    name = f"{actor.name} AttemptStarted sent to slot {slot}"
    return name, _sent(slots, index, record)


def _commit(slots: Slots, guards: Guards, index: int, seen: Fold) -> tuple[str, Slots]:
    actor, slot = slots.actors[index], seen.slot + 1
    if seen.fence != actor.fence:
        lost = actor._replace(stage=Stage.LOST)
        return f"{actor.name} sees fence lost", _moved(slots, index, lost)
    record = Record(
        Kind.COMMIT,
        slot,
        str(seen.run),
        seen.prev(guards),
        _write_id(actor),
        actor.fence,
        seen.next_number(guards),
    )
    return f"{actor.name} sends commit to slot {slot}", _sent(slots, index, record)


def _wait(slots: Slots, guards: Guards, index: int) -> Steps:
    """Look at the slot. While it is empty nothing is known: the PUT may still land."""
    actor = slots.actors[index]
    sent, log = actor.sent, dict(slots.log)
    if sent is None:
        return
    if sent.slot in log:
        found = log[sent.slot]
        if Guard.CONTRADICTED in guards and not _counts(slots, guards, found):
            found = None
        yield from _answered(slots, index, sent, found)
    elif Guard.REPEAT_UNTIL_TAKEN not in guards and sent.kind == Kind.COMMIT:
        gave_up = _reported(slots, index, sent, committed=False)
        yield f"{actor.name} timeout, slot empty: reports failed", gave_up
    elif Guard.REPEAT_UNTIL_TAKEN in guards and sent not in slots.in_flight:
        again = slots._replace(in_flight=(*slots.in_flight, sent))
        yield f"{actor.name} repeats the same PUT", again


def _counts(slots: Slots, guards: Guards, record: Record | None) -> bool:
    return slots.wiped or record in fold(slots.log, guards).records


def _answered(slots: Slots, index: int, sent: Record, found: Record | None) -> Steps:
    actor = slots.actors[index]
    ours = found is not None and found.write_id == sent.write_id
    if ours and sent.kind == Kind.START:
        holds = actor._replace(stage=Stage.COMMIT, fence=sent.slot, sent=None)
        yield f"{actor.name} holds fence {sent.slot}", _moved(slots, index, holds)
    elif ours:
        yield f"{actor.name} reports committed", _reported(slots, index, sent, committed=True)
    elif not _knows_only_the_past(slots, actor):
        stage = Stage.START if sent.kind == Kind.START else Stage.COMMIT
        again = actor._replace(stage=stage, sent=None)
        yield f"{actor.name} conflict, folds again", _moved(slots, index, again)


def _write_id(actor: Actor) -> str:
    return {Stage.START: "s", Stage.COMMIT: "c"}[actor.stage] + actor.name


def _sent(slots: Slots, index: int, record: Record) -> Slots:
    fence = record.fence
    waiting = slots.actors[index]._replace(stage=Stage.WAIT, fence=fence, sent=record)
    moved = _moved(slots, index, waiting)
    return moved._replace(in_flight=(*slots.in_flight, record))


def _reported(slots: Slots, index: int, record: Record, *, committed: bool) -> Slots:
    actor = slots.actors[index]
    report = Report(actor.name, committed, record)
    moved = _moved(slots, index, actor._replace(stage=Stage.DONE, sent=None))
    return moved._replace(reports=(*slots.reports, report))


def _moved(slots: Slots, index: int, actor: Actor) -> Slots:
    actors = (*slots.actors[:index], actor, *slots.actors[index + 1 :])
    return slots._replace(actors=actors)


def with_record(slots: Slots, record: Record) -> Slots:
    return slots._replace(log=tuple(sorted({**dict(slots.log), record.slot: record}.items())))
