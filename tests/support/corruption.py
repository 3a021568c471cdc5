"""A real stored run, damaged one way at a time: is the damage named, is nothing bad resumed, is the right version chosen?

The run: versions 1 to 5 of three attempts of the small training, and a sixth that the validator quarantined for a NaN.
The newest good one stands at the rung in question. What should be chosen follows from what was damaged alone, by a rule
of a few lines that knows nothing of the store's code (`expected_version`).
"""

from __future__ import annotations

import random
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ray_workers.opening_attempt import Applicant, open_attempt
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.resume import ResumeSpec, choose
from ray_workers.store import keys
from ray_workers.store.attempts import read_run, this_process
from ray_workers.store.audit import audit_run
from ray_workers.store.errors import RunNotFoundError
from ray_workers.store.fold import apply_record
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.memory import MemoryStore
from ray_workers.store.records import Record
from ray_workers.store.run_state import RUNGS, RunState
from ray_workers.store.versions import CheckResult, load_manifest
from ray_workers.validation import record_verdicts, validate
from tests.support.small_training import Killed, patient_process, small_loop

__all__ = ["DAMAGES", "KINDS", "Base", "Case", "Finding", "cases", "make_bases", "play"]

RUN = "run"
NEWEST, SPOILT = 5, 6
KINDS = ("shards", "manifests", "log", "folds")
_SHM = Path("/dev/shm")  # noqa: S108 - as staging does

Objects = Mapping[str, bytes]
Damaged = dict[str, bytes | None]
"""Key to what stands there instead; None: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A stored run before it is damaged."""

    rung: str
    """Of the newest good version."""
    cached: bool
    """Fold caches stand beside the log, one in its middle and one at its end."""
    objects: Objects
    commits: Mapping[int, int]
    """Slot to the version that its record commits."""
    owners: Mapping[str, int]
    """Manifest and shard keys to their version."""
    slots: int

    def keys(self, kind: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(f"runs/{RUN}/{kind}/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    base: Base
    kind: str
    damage: str
    damaged: Damaged

    def __str__(self) -> str:
        where = ", ".join(key.removeprefix(f"runs/{RUN}/") for key in self.damaged)
        cached = " with caches" if self.base.cached else ""
        return f"{self.damage} of {where}, newest {self.base.rung}{cached}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    case: Case
    visible: bool
    """The damage leaves something to be seen; a record lost at the very end of a log without a cache does not."""
    named: bool
    """Exactly what was damaged was named."""
    clean: bool
    """What was chosen is, byte for byte, what was stored, and sound."""
    right: bool
    """It is the version that the rule says."""

    @property
    def good(self) -> bool:
        return self.clean and self.right and (self.named or not self.visible)


# --- making it ---------------------------------------------------------------------------------------------------


def make_bases() -> list[Base]:
    """One for each rung of the newest good version, with and without fold caches."""
    found = []
    with tempfile.TemporaryDirectory(dir=_SHM if _SHM.is_dir() else None) as folder:
        run = patient_process(Path(folder), RUN)
        for die_at in (6, 8):
            with pytest.raises(Killed):
                run.attempt(small_loop(die_at=die_at))
        with pytest.raises(Killed):
            run.attempt(small_loop(die_at=13, spoil_at=12, spoil=_spoil))
        stored = run.target.open().store
        trained = {info.key: stored.get(info.key) for info in stored.list("")}
    for rung in RUNGS:
        store = _filled(trained)
        _judge(store, rung)
        found.append(_base(store, rung, cached=False))
        _add_caches(store)
        found.append(_base(store, rung, cached=True))
    return found


def _spoil(model: Any) -> None:
    model[0].weight.data[0, 0] = float("nan")


def _filled(objects: Objects) -> MemoryStore:
    store = MemoryStore(uuid.uuid4().hex)
    for key, data in objects.items():
        store.put(key, data)
    return store


def _judge(store: MemoryStore, rung: str) -> None:
    """Every version as the validator does, but the newest good one only up to `rung`."""
    log = RunLog(store, RUN, by=this_process())
    for number in (1, 2, 3, 4, NEWEST, SPOILT):
        version = log.refresh().versions[number]
        results = validate(store, version, state=log.state, policy=SoundnessPolicy())
        if number == NEWEST:
            results = results[: RUNGS.index(rung)]
            if rung == "restorable":
                results = [*results, CheckResult(check="restorable", passed=True)]
        record_verdicts(log, version, results, checker="validator")
    state = log.refresh()
    found = [v.rung for v in reversed(state.newest_first())]
    assert found == ["sound"] * 4 + [rung, "quarantined"], found


def _add_caches(store: MemoryStore) -> None:
    whole = RunLog(store, RUN, by=this_process()).state
    middle = RunState(run=RUN)
    for record in LogReader(store, RUN).read_many(range(1, whole.slot // 2)):
        assert isinstance(record, Record)
        apply_record(middle, record)
    for state in (middle, whole):
        store.put(keys.fold_key(RUN, state.slot, str(state.head)), encode_cache(state))


def _base(store: MemoryStore, rung: str, *, cached: bool) -> Base:
    state = read_run(store, RUN)
    owners: dict[str, int] = {}
    for version in state.versions.values():
        owners[keys.manifest_key(RUN, version.fence, version.manifest)] = version.number
        owners |= {s.key: version.number for s in load_manifest(store, RUN, version).shards}
    return Base(
        rung=rung,
        cached=cached,
        objects={info.key: store.get(info.key) for info in store.list("")},
        commits={version.slot: version.number for version in state.versions.values()},
        owners=owners,
        slots=state.slot,
    )


# --- damaging it -------------------------------------------------------------------------------------------------

_Damage = Callable[[bytes, random.Random], bytes | None]


def _flip(at: float | None) -> _Damage:
    """One bit turned, so far into the object; None: anywhere."""

    def damage(data: bytes, draws: random.Random) -> bytes:
        turned = bytearray(data)
        place = draws.randrange(len(data)) if at is None else int(at * (len(data) - 1))
        turned[place] ^= 1 << draws.randrange(8)
        return bytes(turned)

    return damage


DAMAGES: dict[str, _Damage] = {
    "first byte flipped": _flip(0),
    "last byte flipped": _flip(1),
    "some byte flipped": _flip(None),
    "cut to nothing": lambda *_: b"",
    "cut in half": lambda data, _: data[: len(data) // 2],
    "last byte cut": lambda data, _: data[:-1],
    "a byte too many": lambda data, _: data + b"\x00",
    "zeroed": lambda data, _: bytes(len(data)),
    "deleted": lambda *_: None,
}


def cases(base: Base, draws: random.Random, *, flips: int = 3) -> Iterator[Case]:
    """Every object damaged in every way, some byte `flips` times; and every two neighbours of a kind exchanged."""
    for kind in KINDS:
        found = base.keys(kind)
        for key in found:
            for name, damage in DAMAGES.items():
                for _ in range(flips if name == "some byte flipped" else 1):
                    yield Case(
                        base=base,
                        kind=kind,
                        damage=name,
                        damaged={key: damage(base.objects[key], draws)},
                    )
        for one, other in pairwise(found):
            exchanged: Damaged = {one: base.objects[other], other: base.objects[one]}
            yield Case(base=base, kind=kind, damage="exchanged", damaged=exchanged)


# --- the oracle --------------------------------------------------------------------------------------------------


def expected_version(case: Case) -> int | None:
    """The newest version that is neither spoilt nor has a damaged object, and whose commit is still known."""
    base = case.base
    lost_slots = [keys.parse_log_key(key) for key in case.damaged if case.kind == "log"]
    if not base.cached and lost_slots == [1] and case.damage == "deleted":
        return None  # then there is no run (FORMAT.md §8)
    lost = {base.owners.get(key) for key in case.damaged} | {SPOILT}
    if not base.cached:
        lost |= {base.commits.get(slot or 0) for slot in lost_slots}
    return max(number for number in base.commits.values() if number not in lost)


def _is_visible(case: Case) -> bool:
    if case.damage != "deleted":
        return True
    if case.kind == "folds":
        return False  # a cache may always be missing
    tail = keys.log_key(RUN, case.base.slots)
    return case.base.cached or tail not in case.damaged


# --- playing it --------------------------------------------------------------------------------------------------


def play(case: Case) -> Finding:
    """Damage a copy of the run, read it back, and choose what to resume."""
    store = _filled(case.base.objects)
    for key, data in case.damaged.items():
        store.delete(key)
        if data is not None:
            store.put(key, data)
    named = _names(store, case)
    log, fence = open_attempt(store, RUN, ResumeSpec.parse("auto"), _applicant())
    point = choose(store, log, fence, required="sound", policy=SoundnessPolicy()).point
    number = None if point is None else point.name.number
    return Finding(
        case=case,
        visible=_is_visible(case),
        named=named,
        clean=number is None or _is_clean(store, case.base, number),
        right=number == expected_version(case),
    )


def _names(store: MemoryStore, case: Case) -> bool:
    try:
        audit = audit_run(store, RUN)
    except RunNotFoundError:
        return keys.log_key(RUN, 1) in case.damaged
    found = {bad.key for bad in (*audit.bad_objects, *audit.bad_caches)}
    found |= {slot.key for slot in audit.damaged_slots}
    return found == set(case.damaged)


def _is_clean(store: MemoryStore, base: Base, number: int) -> bool:
    mine = [key for key, owner in base.owners.items() if owner == number]
    return number != SPOILT and all(_bytes(store, key) == base.objects[key] for key in mine)


def _bytes(store: MemoryStore, key: str) -> bytes | None:
    return store.get(key) if any(info.key == key for info in store.list(key)) else None


def _applicant() -> Applicant:
    return Applicant(
        flow_run_id=uuid.uuid4().hex,
        run_count=1,
        by=this_process(),
        takeover=True,
        still_running=lambda _: None,
    )
