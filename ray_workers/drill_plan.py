"""Which versions to drill, and with which settings a drill starts: decisions on a run's log and a manifest.

Pure, but that `turn` reads the log for the time of the last drill, which its fold does not keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ray_workers.environment import differences
from ray_workers.store.bodies import Body, Verdict
from ray_workers.store.errors import InvalidInputError, VersionNotFoundError
from ray_workers.store.log_reader import LogReader
from ray_workers.store.manifest import Manifest
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record
from ray_workers.store.run_listing import run_status
from ray_workers.store.run_state import RunState, VersionState, rung_at_least

__all__ = [
    "Pick", "Shape", "followers", "last_drilled", "next_value", "pick_version", "shape_of", "turn",
]  # fmt: skip

_BATCH = 64

Pick = Literal["newest", "undrilled"]


def pick_version(state: RunState, pick: Pick) -> VersionState:
    """The newest version that a resume would take, or the oldest trusted one that no drill has restored.

    Raises:
        VersionNotFoundError: there is none.
    """
    trusted = [v for v in state.newest_first() if v.candidate and rung_at_least(v.rung, "sound")]
    if pick == "undrilled":
        trusted = [v for v in reversed(trusted) if "restorable" not in v.passed]
    if not trusted:
        what = "sound version" if pick == "newest" else "sound version that no drill has restored"
        raise VersionNotFoundError(f"Run {state.run!r} has no {what} to drill.")
    return trusted[0]


def last_drilled(store: ObjectStore, state: RunState) -> str:
    """When the last drill of the run that came to a verdict wrote it; empty: there was none."""
    judged = ("restorable" in v.passed or v.quarantine is not None for v in state.versions.values())
    if not any(judged):
        return ""
    reader = LogReader(store, state.run)
    for top in range(state.slot, 0, -_BATCH):
        for slot in reader.read_many(range(top, max(0, top - _BATCH), -1)):
            if isinstance(slot, Record) and _is_drill(slot.body):
                return slot.at
    return ""


def _is_drill(body: Body | None) -> bool:
    return isinstance(body, Verdict) and body.check == "restorable"


def turn(store: ObjectStore, state: RunState) -> tuple[str, bool, str]:
    """A key to sort runs by: the one whose last drill is the longest ago comes first, one never drilled before all.

    Of those never drilled, the ones that still train come before the ones that completed.
    """
    return last_drilled(store, state), run_status(state) == "completed", state.run


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a resume of the version would be started with."""

    entrypoint: str
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float


def shape_of(manifest: Manifest, entrypoint: str | None) -> Shape:
    """As it stands in the version; `entrypoint`, when given, goes before what stands there.

    Raises:
        InvalidInputError: it was saved before entrypoints were kept, and none is given.
    """
    said = manifest.environment
    loop = entrypoint or said.get("entrypoint")
    if not loop:
        raise InvalidInputError(
            "The version does not say which loop trained it: give the entrypoint (--entrypoint module:function)."
        )
    return Shape(
        entrypoint=loop,
        workers=manifest.world_size,
        cpus_per_worker=_number(said, "cpus_per_worker", 1.0),
        gpus_per_worker=_number(said, "gpus_per_worker", 0.0),
    )


def _number(said: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(said.get(name, ""))
    except ValueError:
        return default


def followers(state: RunState, version: VersionState) -> Sequence[VersionState]:
    """Versions whose training went through `version`, directly after it, next one first; at most a few."""
    later = [
        v
        for v in reversed(state.newest_first())
        if v.number > version.number and v.readable and _continues(state, v, version)
    ]
    return later[:3]


def _continues(state: RunState, later: VersionState, version: VersionState) -> bool:
    attempt = state.attempts.get(later.fence)
    if later.fence == version.fence:
        return True
    if attempt is None:
        return False
    begun = state.begun(attempt)
    return begun.resume_origin is None and begun.resume == version.name


def next_value(version: Manifest, later: Manifest, metric: str) -> float | None:
    """What was recorded for the step after `version`, if `later` was trained under the same conditions and kept it."""
    alike = (
        later.world_size == version.world_size
        and dict(later.config) == dict(version.config)
        and not differences(version.environment, later.environment)
    )
    curve = later.curve.get(metric)
    if not alike or curve is None:
        return None
    values = dict(zip(curve.steps, curve.values, strict=True))
    return values.get(version.progress.step + 1)
