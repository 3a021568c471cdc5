"""Runs in which something has happened already, made once each and copied for every history."""

from __future__ import annotations

import functools
from collections.abc import Callable

from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from tests.support.simulation.copied_store import CopiedStore
from tests.support.simulation.processes import Process, Program, run_alone
from tests.support.simulation.programs import (
    attempt,
    commits,
    drills,
    judges_all,
    retires,
    starts,
    tags,
    validates,
)
from tests.support.simulation.world import seed_ids

__all__ = ["BEGINNINGS", "begin", "put_all"]


def _nothing() -> list[Program]:
    return []


def _an_attempt_ended() -> list[Program]:
    return [functools.partial(attempt, flow="before", versions=1)]


def _an_attempt_is_under_way() -> list[Program]:
    """Two sound versions, and one that waits for its verdict, under the open fence."""
    return [
        functools.partial(attempt, flow="before", versions=2),
        validates,
        functools.partial(starts, flow="now"),
        commits,
    ]


def _many_versions() -> list[Program]:
    """Sound, tagged, retired and waiting ones, and the open fence of an attempt that died."""
    return [
        functools.partial(attempt, flow="before", versions=3),
        validates,
        functools.partial(attempt, flow="again", versions=2, share=True),
        functools.partial(tags, back=3),
        validates,
        retires,
        functools.partial(starts, flow="now"),
        commits,
    ]


def _four_versions() -> list[Program]:
    """As short a log as can be: the newest of them sound, the open fence of an attempt that stopped."""
    return [
        functools.partial(starts, flow="now"),
        commits,
        commits,
        commits,
        commits,
        drills,
        judges_all,
    ]


def _four_wait() -> list[Program]:
    return [functools.partial(starts, flow="now"), commits, commits, commits, commits]


def _one_was_drilled() -> list[Program]:
    """The oldest of four sound versions is the only restorable one."""
    return [*_four_versions(), functools.partial(drills, oldest=True)]


BEGINNINGS: dict[str, Callable[[], list[Program]]] = {
    "no run": _nothing,
    "an attempt ended": _an_attempt_ended,
    "an attempt under way": _an_attempt_is_under_way,
    "many versions": _many_versions,
    "four versions": _four_versions,
    "four versions wait": _four_wait,
    "one was drilled": _one_was_drilled,
}


@functools.cache
def _objects(name: str) -> dict[str, bytes]:
    seed_ids(sum(map(ord, name)))
    store = MemoryStore()
    for number, program in enumerate(BEGINNINGS[name]()):
        process = Process(f"{name} {number}", program)
        run_alone(process, store, None, {})
        assert process.told.ended == "done", (name, number, process.told)
    return {info.key: store.get(info.key) for info in store.list("")}


def begin(name: str, into: ObjectStore | None = None) -> ObjectStore:
    """A store, in memory unless another is given, in which that has happened."""
    return put_all(_objects(name), CopiedStore() if into is None else into)


def put_all(objects: dict[str, bytes], into: ObjectStore) -> ObjectStore:
    if isinstance(into, CopiedStore):
        into.adopt(objects)
        return into
    for key, data in objects.items():
        into.put(key, data)
    return into
