"""What is wrong with a run, and what can be done about it without guessing (FORMAT.md §8).

Nothing here takes anything away: holes are filled, damaged slots are noted as seen, a version is trusted again only after
every byte of it was read and held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_workers.store import keys
from ray_workers.store.attempts import read_run
from ray_workers.store.bodies import Repaired, Verdict
from ray_workers.store.errors import PawlError
from ray_workers.store.fold_cache import encode_cache
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record
from ray_workers.store.run_state import RunState
from ray_workers.store.versions import verify_bytes

__all__ = ["RepairPlan", "RepairStep", "plan_repair", "repair"]

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairStep:
    what: str
    """`fill`, `repaired`, `release`, `verified`, or `cache`; `explain` when nothing can be done."""
    target: int
    """Slot, or number of the version."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    run: str
    steps: tuple[RepairStep, ...]

    @property
    def fixable(self) -> tuple[RepairStep, ...]:
        return tuple(step for step in self.steps if step.what != "explain")

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names."""
        steps = [{"what": s.what, "target": s.target, "text": s.text} for s in self.steps]
        return {"run": self.run, "steps": steps}


def plan_repair(
    store: ObjectStore, run: str, *, release: bool = False, tell: Tell = lambda _: None
) -> RepairPlan:
    """What is wrong, and what `repair` would do about it. Writes nothing.

    Args:
        store: where the run lives.
        run: its name.
        release: also lift quarantines that bad bytes alone caused, of versions whose every byte holds now.
        tell: progress, for people.

    Raises:
        RunNotFoundError: there is no such run.
        StoreUnavailableError, StoreRefusedError: the store does not let us read.
    """
    read_run(store, run)
    tell(f"reading the log of {run}")
    reader = LogReader(store, run)
    state = reader.fold(use_cache=False)
    holes = [
        slot for slot, found in zip(state.damaged, reader.read_many(state.damaged), strict=True)
        if found is None
    ]  # fmt: skip
    steps = [
        RepairStep(
            what="fill",
            target=n,
            text=f"slot {n} is missing: a filler takes it, so that nothing can appear there later",
        )
        for n in holes
    ]
    steps += [
        RepairStep(
            what="repaired",
            target=n,
            text=f"slot {n} is damaged: what it held is lost; once you have tagged again what it may have tagged, deleting may go on",
        )
        for n in state.unrepaired
    ]
    steps += _versions(store, state, _failed_otherwise(reader, state), release=release, tell=tell)
    return RepairPlan(run=run, steps=tuple(steps))


def repair(
    store: ObjectStore, plan: RepairPlan, *, by: Mapping[str, Any], lost: Mapping[str, Any]
) -> tuple[RepairStep, ...]:
    """Carry the plan out; what was done. May be repeated.

    Args:
        store: where the run lives.
        plan: as `plan_repair` made it.
        by: who repairs.
        lost: what a person knows that the damaged slots held; stands in each Repaired record.

    Raises:
        NewerFormatError: a newer Pawl wrote here.
        StoreUnavailableError, StoreRefusedError: the store does not let us; what was done stays done.
    """
    log = RunLog(store, plan.run, by=by, patience_s=120.0, raw=True)
    # The first append fills every hole, whatever it appends.
    done = [step for step in plan.fixable if step.what == "fill"]
    log.fill_holes()
    for step in plan.fixable:
        if step.what == "fill":
            continue
        decide = _repaired(step, lost) if step.what == "repaired" else _verdict(step)
        if log.append(decide) is not None:
            done.append(step)
    _cache(store, log.state)
    return tuple(done)


def _failed_otherwise(reader: LogReader, state: RunState) -> dict[int, str]:
    """Versions that another check than `bytes` found bad since they were last released, and why.

    A quarantine keeps its first reason alone, so that of the state may be the bytes when more is wrong.
    """
    found: dict[int, str] = {}
    if not any(v.readable and v.bad_bytes for v in state.versions.values()):
        return found
    for record in reader.read_many(range(1, state.slot + 1)):
        body = record.body if isinstance(record, Record) else None
        if not isinstance(body, Verdict):
            continue
        for name in body.versions:
            if state.find(name) is None:
                continue
            if body.check == "release":
                found.pop(name.number, None)
            elif not body.passed and body.check != "bytes":
                found[name.number] = body.reason or f"check {body.check!r} failed"
    return found


def _versions(
    store: ObjectStore, state: RunState, failed: Mapping[int, str], *, release: bool, tell: Tell
) -> list[RepairStep]:
    steps: list[RepairStep] = []
    for version in state.newest_first():
        if not version.readable or not (version.bad_bytes or version.quarantine):
            continue
        number = version.number
        tell(f"reading version {number} ({version.bytes / 1e6:.2f} MB)")
        result, _ = verify_bytes(store, state.run, version)
        if not result.passed:
            text = f"version {number} is unusable: {result.reason}"
            steps.append(RepairStep(what="explain", target=number, text=text))
        elif not version.bad_bytes or number in failed:
            why = failed.get(number, version.quarantine)
            text = f"version {number} is quarantined, and not for its bytes: {why}"
            steps.append(RepairStep(what="explain", target=number, text=text))
        elif release:
            text = f"version {number} was quarantined ({version.quarantine}), and every byte of it holds now"
            steps.append(RepairStep(what="release", target=number, text=text))
            steps.append(RepairStep(what="verified", target=number, text=text))
        else:
            text = f"version {number} was quarantined ({version.quarantine}), and every byte of it holds now: --release lifts it"
            steps.append(RepairStep(what="explain", target=number, text=text))
    return steps


def _repaired(step: RepairStep, lost: Mapping[str, Any]) -> Callable[[RunState], Repaired | None]:
    def decide(state: RunState) -> Repaired | None:
        return Repaired(slot=step.target, lost=lost) if step.target in state.unrepaired else None

    return decide


def _verdict(step: RepairStep) -> Callable[[RunState], Verdict | None]:
    def decide(state: RunState) -> Verdict | None:
        version = state.versions.get(step.target)
        if version is None or not version.readable:
            return None
        return Verdict(
            versions=(version.name,),
            check=step.what,
            passed=True,
            reason=step.text[:500],
            checker="pawl repair",
        )

    return decide


def _cache(store: ObjectStore, state: RunState) -> None:
    if state.head is None:
        return
    try:
        store.put_if_absent(keys.fold_key(state.run, state.slot, state.head), encode_cache(state))
    except PawlError:
        return  # a cache only saves time
