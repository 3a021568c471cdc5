"""The steps of those who only look and judge: validator, tagger, forker."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.model.lifecycle_state import (
    Fork,
    Guard,
    Guards,
    Reader,
    ReaderPhase,
    Scenario,
    Status,
    Verdict,
    Version,
    World,
    appended,
    is_dead,
)

__all__ = ["forker_steps", "tagger_steps", "validator_steps"]

Steps = Iterator[tuple[str, World]]

IDLE = Reader(ReaderPhase.IDLE)
_DEMOTIONS = 1


def validator_steps(world: World, guards: Guards, scenario: Scenario) -> Steps:
    """Reads a version shard by shard, registered nowhere, then appends a verdict."""
    if world.validator.phase == ReaderPhase.IDLE:
        yield from _take(world, guards, scenario)
    elif world.validator.phase == ReaderPhase.READ and world.validator.version is not None:
        version = world.version(world.validator.version)
        if world.validator.unread:
            yield _read(world, guards, version)
        else:
            yield from _judge(world, guards, scenario, version)


def _take(world: World, guards: Guards, scenario: Scenario) -> Steps:
    wanted = (Verdict.PENDING, Verdict.SOUND) if scenario.demotion else (Verdict.PENDING,)
    for version in world.versions:
        if not is_dead(version, guards) and version.verdict in wanted:
            reading = Reader(ReaderPhase.READ, version.name, tuple(sorted(version.keys)))
            yield f"val takes {version.name}", world._replace(validator=reading)


def _read(world: World, guards: Guards, version: Version) -> tuple[str, World]:
    reader = world.validator
    key = reader.unread[0]
    if key in world.objects:
        read = reader._replace(unread=reader.unread[1:])
        return f"val reads {key}", world._replace(validator=read)
    if Guard.FOLD_AFTER_404 in guards and is_dead(version, guards):
        name = f"val 404, folds again: {version.name} is gone by GC"
        return name, world._replace(validator=IDLE)
    alarm = Reader(ReaderPhase.FALSE_ALARM, version.name, (key,))
    name = f"val 404 on {key}: Verdict {version.name} missing bytes"
    return name, world._replace(validator=alarm)


def _judge(world: World, guards: Guards, scenario: Scenario, version: Version) -> Steps:
    if is_dead(version, guards):
        yield "val drops", world._replace(validator=IDLE)
        return
    sound = Verdict.BAD if version.verdict == Verdict.BAD else Verdict.SOUND
    after = appended(world, version.name, verdict=sound)
    yield f"Verdict {version.name} sound", after._replace(validator=IDLE)
    if scenario.demotion and sum(v.verdict == Verdict.BAD for v in world.versions) < _DEMOTIONS:
        after = appended(world, version.name, verdict=Verdict.BAD)
        yield f"Verdict {version.name} bad (drift)", after._replace(validator=IDLE)


def tagger_steps(world: World, guards: Guards) -> Steps:
    if world.tag is not None:
        return
    for version in world.versions:
        if Guard.TAG_CHECK not in guards or not is_dead(version, guards):
            after = appended(world, version.name, status=_revived(version, guards))
            yield f"Tag {version.name}", after._replace(tag=version.name)


def forker_steps(world: World, guards: Guards) -> Steps:
    """A child run is made that refers to the keys of v1."""
    origin = world.version("v1")
    if world.fork == Fork.NONE and not is_dead(origin, guards):
        if Guard.PIN_FIRST in guards:
            after = appended(world, "v1", status=_revived(origin, guards))
            yield "ForkPin v1", after._replace(fork=Fork.PINNED)
        else:
            yield "forker folds origin, picks v1", world._replace(fork=Fork.PICKED)
    elif world.fork == Fork.PINNED:
        yield "child Forked record", world._replace(fork=Fork.CHILD)
    elif world.fork == Fork.PICKED:
        yield "child Forked record (pin to follow)", world._replace(fork=Fork.CHILD)


def _revived(version: Version, guards: Guards) -> Status:
    """Retire is undone by whoever takes the version up again; without Condemn records it cannot be."""
    if Guard.CONDEMN_RECORD in guards and version.status == Status.RETIRED:
        return Status.LIVE
    return version.status
