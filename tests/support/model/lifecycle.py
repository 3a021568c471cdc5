"""The life of versions and their bytes as a checkable model: writers, readers, collectors, deletes that land late.

An append is one atomic step here, because creating slot n+1 after folding slots 1 to n is exactly that (the model in
`slots` takes the slots apart). The one append that is not atomic is a Commit: once sent, it may land any time as long
as no other record takes the slot. A delete, once decided, may land any time later and any number of times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tests.support.model.explorer import Violation
from tests.support.model.lifecycle_collector import collector_steps, deletes_land
from tests.support.model.lifecycle_readers import IDLE, forker_steps, tagger_steps, validator_steps
from tests.support.model.lifecycle_state import (
    ALL_GUARDS,
    Fork,
    Guards,
    Phase,
    ReaderPhase,
    Scenario,
    Verdict,
    Version,
    World,
    Writer,
    is_dead,
)
from tests.support.model.lifecycle_writers import commit_lands, new_attempt_steps, writer_steps

__all__ = ["Invariant", "LifecycleModel"]


class Invariant(StrEnum):
    COMPLETE = "every key of a version that is not dead exists"
    FENCED = "nothing commits under a lost fence"
    NEWEST_SOUND = "the newest sound version is not deleted"
    RESUME_POINT = "a resume point does not vanish while it is read"
    NO_FALSE_ALARM = "a 404 made by a sweep quarantines nothing"
    TAGGED = "a tagged version is not deleted"
    LAST_SOUND = "a sweep does not take the last sound version"
    FORKED = "the origin of a fork is not deleted"


_PLAIN = Scenario()


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleModel:
    scenario: Scenario = _PLAIN
    guards: Guards = ALL_GUARDS

    def initial(self) -> World:
        first = Version("v1", frozenset({"D", "e1"}), Verdict.SOUND)
        second = Version("v2", frozenset({"F", "e2"}))
        versions: tuple[Version, ...] = (first, second)
        if self.scenario.three_sound:
            third = Version("v3", frozenset({"F", "e5"}), Verdict.SOUND)
            versions = (first, second._replace(verdict=Verdict.SOUND), third)
        return World(
            open_fence=1,
            versions=versions,
            objects=frozenset(key for version in versions for key in version.keys),
            doomed=frozenset(),
            w1=Writer(Phase.PLAN),
            w2=Writer(Phase.OFF),
            validator=IDLE,
            tag=None,
            resume=None,
            sent=None,
            base_of_w2=None,
            fork=Fork.NONE,
        )

    def steps(self, state: World) -> Iterator[tuple[str, World]]:
        yield from deletes_land(state)
        yield from commit_lands(state)
        yield from writer_steps(state, self.guards, 1)
        yield from writer_steps(state, self.guards, 2)
        yield from new_attempt_steps(state, self.guards)
        yield from validator_steps(state, self.guards, self.scenario)
        if self.scenario.tagger:
            yield from tagger_steps(state, self.guards)
        if self.scenario.forker:
            yield from forker_steps(state, self.guards)
        yield from collector_steps(state, self.guards)

    def violation(self, before: World, after: World) -> Violation | None:
        return (
            _fenced_commit(before, after)
            or self._nothing_sound_left(after)
            or self._incomplete(after)
            or self._newest_sound_dead(after)
            or _reader_misled(after)
            or self._reference_dead(after)
        )

    def _nothing_sound_left(self, world: World) -> Violation | None:
        sound = [v for v in world.versions if v.verdict == Verdict.SOUND]
        if sound and all(is_dead(v, self.guards) for v in sound):
            return Violation(Invariant.LAST_SOUND, ", ".join(v.name for v in sound))
        return None

    def _incomplete(self, world: World) -> Violation | None:
        for version in world.versions:
            missing = version.keys - world.objects
            if missing and not is_dead(version, self.guards):
                return Violation(Invariant.COMPLETE, f"{version.name} lacks {sorted(missing)}")
        return None

    def _newest_sound_dead(self, world: World) -> Violation | None:
        sound = [v for v in world.versions if v.verdict == Verdict.SOUND]
        if sound and is_dead(sound[-1], self.guards):
            return Violation(Invariant.NEWEST_SOUND, sound[-1].name)
        return None

    def _reference_dead(self, world: World) -> Violation | None:
        if world.tag is not None and is_dead(world.version(world.tag), self.guards):
            return Violation(Invariant.TAGGED, world.tag)
        if world.fork == Fork.CHILD and is_dead(world.version("v1"), self.guards):
            return Violation(Invariant.FORKED, "v1")
        return None


def _fenced_commit(before: World, after: World) -> Violation | None:
    newest = after.versions[-1].name
    if len(after.versions) > len(before.versions) and newest == "c1" and before.open_fence != 1:
        return Violation(Invariant.FENCED, newest)
    return None


def _reader_misled(world: World) -> Violation | None:
    if world.w2.phase == Phase.READ_FAILED:
        return Violation(Invariant.RESUME_POINT, str(world.w2.reading))
    if world.validator.phase == ReaderPhase.FALSE_ALARM:
        return Violation(Invariant.NO_FALSE_ALARM, str(world.validator.version))
    return None
