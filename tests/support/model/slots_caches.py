"""Fold caches in the model of the slots: who stores them, and how a reader uses them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.model.slots_state import (
    Cache,
    Fold,
    Guard,
    Guards,
    Kind,
    Record,
    Scenario,
    Slots,
    after_damage,
    fold,
)

__all__ = ["advanced", "begin", "beyond_the_end", "cache_steps", "end_steps", "free_holes", "look"]

Steps = Iterator[tuple[str, Slots]]


def look(slots: Slots, guards: Guards) -> Fold:
    """What a reader makes of the log and the caches, if nothing happens meanwhile."""
    return beyond_the_end(slots, guards, begin(slots, guards))


def begin(slots: Slots, guards: Guards) -> Fold:
    """Fold from the newest usable cache to the end of the log."""
    usable = [cache.fold for cache in slots.caches if _is_usable(slots, guards, cache)]
    start = max(usable, key=lambda found: found.slot, default=Fold())
    return fold(slots.log, guards, None, start)


def beyond_the_end(slots: Slots, guards: Guards, seen: Fold) -> Fold:
    """Count slots as lost up to the newest cache of the same run above the end."""
    above = [
        cache.fold.slot
        for cache in slots.caches
        if _version_fits(cache, guards) and cache.fold.run == seen.run and seen.run is not None
    ]
    last = max(above, default=0)
    if last <= seen.slot or Guard.BEYOND_THE_END not in guards:
        return seen
    if Guard.READ_AGAIN in guards:
        seen = fold(slots.log, guards, None, seen)
    while seen.slot < last:
        lost = seen._replace(holes=(*seen.holes, seen.slot + 1))
        seen = after_damage(lost, guards)
    return fold(slots.log, guards, None, seen)


def _version_fits(cache: Cache, guards: Guards) -> bool:
    return not cache.older or Guard.CACHE_VERSION not in guards


def _is_usable(slots: Slots, guards: Guards, cache: Cache) -> bool:
    log = dict(slots.log)
    here, above = log.get(cache.fold.slot), log.get(cache.fold.slot + 1)
    continued = (here is not None and here.digest == cache.fold.head) or (
        above is not None and above.prev == cache.fold.head
    )
    fits = continued or (Guard.CACHE_HEAD not in guards and here is not None)
    return fits and _version_fits(cache, guards)


def advanced(slots: Slots, guards: Guards, known: Fold) -> Fold:
    """Fold on, slot by slot and without a listing, so that a hole looks like the end."""
    return fold(slots.log, guards - {Guard.HOLE_IS_DAMAGE}, None, known)


def free_holes(slots: Slots, seen: Fold) -> list[int]:
    """Slots that were folded as holes and are still free."""
    taken = {slot for slot, _ in slots.log}
    return [slot for slot in seen.holes if slot not in taken]


def cache_steps(slots: Slots, guards: Guards, scenario: Scenario) -> Steps:
    """Somebody folds the log and stores the result."""
    if len(slots.caches) >= scenario.caches:
        return
    for who, folded in _folds_to_cache(slots, guards, scenario):
        cache = Cache(folded, scenario.older_caches)
        if folded.head is not None and not free_holes(slots, folded) and cache not in slots.caches:
            after = slots._replace(caches=(*slots.caches, cache))
            yield f"{who} caches the fold of slot {folded.slot}", after


def _folds_to_cache(slots: Slots, guards: Guards, scenario: Scenario) -> Iterator[tuple[str, Fold]]:
    if scenario.older_caches:
        yield "an older program", fold(slots.log, guards, older=True)
    elif not scenario.warm:
        yield "somebody", look(slots, guards)
    else:
        for actor in slots.actors:
            if actor.known is not None and actor.opened:
                yield actor.name, advanced(slots, guards, actor.known)


def end_steps(slots: Slots, guards: Guards) -> Steps:
    """Somebody ends the attempt that holds the fence."""
    seen = look(slots, guards)
    if not slots.ends_left or seen.fence is None or free_holes(slots, seen):
        return
    slot = seen.slot + 1
    end = Record(Kind.END, slot, str(seen.run), seen.prev(guards), f"e{seen.fence}", seen.fence)
    log = tuple(sorted([*slots.log, (slot, end)]))
    name = f"somebody ends the attempt of fence {seen.fence}"
    yield name, slots._replace(log=log, ends_left=slots.ends_left - 1)
