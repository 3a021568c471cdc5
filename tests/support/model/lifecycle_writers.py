"""The steps of the two writers, and of the Commit that one of them has sent."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.model.lifecycle_state import (
    Guard,
    Guards,
    Phase,
    Sent,
    Status,
    Verdict,
    Version,
    World,
    Writer,
    appended,
    is_dead,
)

__all__ = ["OWN_SHARD", "commit_lands", "fresh_key", "new_attempt_steps", "writer_steps"]

Steps = Iterator[tuple[str, World]]

OWN_SHARD = {1: "e3", 2: "e4"}


def commit_lands(world: World) -> Steps:
    if world.sent is None:
        return
    number, version = world.sent
    after = world._replace(versions=(*world.versions, version), sent=None)
    if _writer(world, number).phase == Phase.SENT:
        after = _moved(after, number, Writer(Phase.DONE))
    yield f"W{number} commit {version.name} {sorted(version.keys)} lands", after


def writer_steps(world: World, guards: Guards, number: int) -> Steps:
    """Plan, upload, check the rule, send the Commit, and what follows when no answer comes."""
    phase = _writer(world, number).phase
    if phase == Phase.PLAN:
        yield _plan(world, number)
    elif phase == Phase.UPLOAD:
        yield _upload(world, guards, number)
    elif phase == Phase.READY:
        yield from _check_and_send(world, guards, number)
    elif phase == Phase.SENT:
        yield from _unanswered(world, guards, number)


def _plan(world: World, number: int) -> tuple[str, World]:
    base = "v1" if number == 1 else world.base_of_w2
    if base is not None and "D" in world.version(base).keys:
        reuse = Writer(Phase.UPLOAD, base=base, shared="D")
        return f"W{number} plans: reuse D from {base}", _moved(world, number, reuse)
    return f"W{number} plans: upload all", _moved(world, number, Writer(Phase.UPLOAD))


def _upload(world: World, guards: Guards, number: int) -> tuple[str, World]:
    writer, own = _writer(world, number), OWN_SHARD[number]
    shared = writer.shared or fresh_key(guards, number)
    uploaded = {own} if writer.shared else {own, shared}
    names = own if writer.shared else f"{own},{shared}"
    ready = Writer(Phase.READY, base=writer.base, shared=shared)
    after = world._replace(objects=world.objects | uploaded)
    return f"W{number} uploads {names}", _moved(after, number, ready)


def _check_and_send(world: World, guards: Guards, number: int) -> Steps:
    writer = _writer(world, number)
    checks_base = Guard.BASE_CHECK in guards
    if Guard.FENCE_CHECK in guards and world.open_fence != number:
        yield f"W{number} sees fence lost", _moved(world, number, Writer(Phase.LOST))
    elif checks_base and writer.base and world.version(writer.base).status == Status.CONDEMNED:
        again = _upload_shared_again(world, guards, number)
        yield f"W{number} base condemned: uploads D again", again
    elif not checks_base and writer.shared not in world.objects:
        again = _upload_shared_again(world, guards, number)
        yield f"W{number} HEAD D absent: uploads D again", again
    elif world.sent is None and writer.shared is not None:
        version = Version(f"c{number}", frozenset({writer.shared, OWN_SHARD[number]}))
        after = world._replace(sent=Sent(number, version))
        yield f"W{number} sends commit", _moved(after, number, writer._replace(phase=Phase.SENT))


def _upload_shared_again(world: World, guards: Guards, number: int) -> World:
    key = fresh_key(guards, number)
    after = world._replace(objects=world.objects | {key})
    return _moved(after, number, Writer(Phase.READY, shared=key))


def _unanswered(world: World, guards: Guards, number: int) -> Steps:
    writer = _writer(world, number)
    if world.sent is None or world.sent.writer != number:
        again = _moved(world, number, writer._replace(phase=Phase.READY))
        yield f"W{number} slot taken by another: folds again", again
    elif Guard.KEEP_UPLOADS not in guards:
        after = world._replace(objects=world.objects - {OWN_SHARD[number]})
        name = f"W{number} timeout, slot empty, gives up, deletes own upload"
        yield name, _moved(after, number, Writer(Phase.GAVE_UP))


def new_attempt_steps(world: World, guards: Guards) -> Steps:
    """W2 takes the fence, chooses its resume point and reads it, shard by shard."""
    phase = world.w2.phase
    if phase == Phase.OFF:
        started = world._replace(open_fence=2, w2=Writer(Phase.PICK), sent=None, resume=None)
        yield "W2 AttemptStarted", started
    elif phase == Phase.PICK:
        yield _choose(world, guards)
    elif phase == Phase.READ:
        yield _read(world)


def _choose(world: World, guards: Guards) -> tuple[str, World]:
    sound = [v for v in world.versions if v.verdict == Verdict.SOUND and not is_dead(v, guards)]
    if not sound:
        return "W2 nothing sound", world._replace(w2=Writer(Phase.NOTHING_SOUND))
    chosen = sound[-1]
    reading = Writer(Phase.READ, reading=chosen.name, unread=tuple(sorted(chosen.keys)))
    if Guard.RESUME_RECORD not in guards:
        return f"W2 picks {chosen.name} (not recorded yet)", world._replace(w2=reading)
    recorded = appended(world, chosen.name, status=Status.LIVE)
    return f"W2 ResumeChosen {chosen.name}", recorded._replace(resume=chosen.name, w2=reading)


def _read(world: World) -> tuple[str, World]:
    version, unread = world.w2.reading, world.w2.unread
    if not unread:
        restored = world._replace(
            w2=Writer(Phase.PLAN), resume=version, base_of_w2=version, sent=None
        )
        return "W2 restored, ResumeChosen", restored
    if unread[0] in world.objects:
        return f"W2 reads {unread[0]}", world._replace(w2=world.w2._replace(unread=unread[1:]))
    failed = Writer(Phase.READ_FAILED, reading=version)
    return f"W2 404 on {unread[0]} of {version}", world._replace(w2=failed)


def fresh_key(guards: Guards, number: int) -> str:
    """The key under which writer `number` uploads the shard whose bytes W1's attempt once stored as `D`."""
    if Guard.NONCE_IN_KEY in guards:
        return {1: "D2", 2: "D3"}[number]
    if Guard.FENCE_IN_KEY in guards:
        return {1: "D", 2: "D3"}[number]
    return "D"


def _writer(world: World, number: int) -> Writer:
    return world.w1 if number == 1 else world.w2


def _moved(world: World, number: int, writer: Writer) -> World:
    return world._replace(w1=writer) if number == 1 else world._replace(w2=writer)
