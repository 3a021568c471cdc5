"""The steps of retention and of any number of sweepers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.model.lifecycle_state import (
    Guard,
    Guards,
    Status,
    World,
    appended,
    is_dead,
    protected,
)

__all__ = ["collector_steps", "deletes_land"]

Steps = Iterator[tuple[str, World]]

_UPLOADED_BY_W2 = ("e4", "D3")


def deletes_land(world: World) -> Steps:
    for key in sorted(world.doomed & world.objects):
        yield f"delete {key} lands", world._replace(objects=world.objects - {key})


def collector_steps(world: World, guards: Guards) -> Steps:
    yield from _retire_and_condemn(world, guards)
    referenced = _keys_of(world, {v.name for v in world.versions if not is_dead(v, guards)})
    yield from _delete_condemned(world, guards, referenced)
    yield from _delete_orphans(world, guards, referenced)


def _retire_and_condemn(world: World, guards: Guards) -> Steps:
    kept = protected(world, guards)
    kept_at_condemn = {name for name in (world.tag, world.resume) if name is not None}
    if Guard.PROTECTION_AT_CONDEMN in guards:
        kept_at_condemn |= protected(world, guards, at_condemn=True)
    for version in world.versions:
        if version.status == Status.LIVE and version.name not in kept:
            retired = appended(world, version.name, status=Status.RETIRED)
            yield f"GC Retire {version.name}", retired
        if (
            Guard.CONDEMN_RECORD in guards
            and version.status == Status.RETIRED
            and version.name not in kept_at_condemn
        ):
            condemned = appended(world, version.name, status=Status.CONDEMNED)
            yield f"GC Condemn {version.name}", condemned


def _delete_condemned(world: World, guards: Guards, referenced: frozenset[str]) -> Steps:
    condemned = {v.name for v in world.versions if is_dead(v, guards)}
    decided = _keys_of(world, condemned) - referenced - world.doomed
    if decided:
        name = f"GC decides to delete {sorted(decided)}"
        yield name, world._replace(doomed=world.doomed | decided)


def _delete_orphans(world: World, guards: Guards, referenced: frozenset[str]) -> Steps:
    named = _keys_of(world, {v.name for v in world.versions})
    decided = frozenset(
        key
        for key in world.objects - referenced - named - world.doomed
        if Guard.ORPHANS_BY_FENCE not in guards or _fence_of(key) < world.open_fence
    )
    if decided:
        name = f"GC orphan sweep decides {sorted(decided)}"
        yield name, world._replace(doomed=world.doomed | decided)


def _fence_of(key: str) -> int:
    return 2 if key in _UPLOADED_BY_W2 else 1


def _keys_of(world: World, names: set[str]) -> frozenset[str]:
    return frozenset(key for v in world.versions if v.name in names for key in v.keys)
