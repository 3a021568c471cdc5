"""The fold and what follows from it (FORMAT.md §5, §7), by somebody who has read nothing but that page."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.support.stranger.log import DAMAGED, KINDS, Objects, read_slot, seal_holds

__all__ = ["State", "Version", "fold", "protected"]

RUNGS = ["committed", "verified", "sound", "restorable"]


@dataclass
class Version:
    number: int
    manifest: str
    fence: int
    slot: int
    step: int
    bytes: int
    base: int | None
    status: str = "live"
    abandoned: bool = False
    passed: set[str] = field(default_factory=set)
    quarantine: str | None = None
    bad_bytes: bool = False

    @property
    def rung(self) -> str:
        """§7, rule 1."""
        if self.quarantine is not None:
            return "quarantined"
        return max(self.passed | {"committed"}, key=RUNGS.index)

    @property
    def kept(self) -> bool:
        return self.status in ("live", "retired")

    @property
    def at_least_sound(self) -> bool:
        return self.rung in ("sound", "restorable")


@dataclass
class State:
    run: str
    slot: int = 0
    head: str | None = None
    head_slot: int = 0
    run_id: str | None = None
    deleted: bool = False
    origin: Any = None
    open_fence: int | None = None
    highest_number: int = 0
    damaged: list[int] = field(default_factory=list)
    unrepaired: list[int] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    attempts: dict[int, dict[str, Any]] = field(default_factory=dict)
    versions: dict[int, Version] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    pins: dict[str, int] = field(default_factory=dict)

    def find(self, name: dict[str, Any] | None) -> Version | None:
        version = self.versions.get(name["number"]) if name else None
        return version if version and name and version.manifest == name["manifest"] else None


def fold(objects: Objects, run: str) -> State:
    """§5, rules 8 to 16, without beginning from a cache."""
    state = State(run)
    pattern = re.compile(rf"runs/{re.escape(run)}/log/(\d{{20}})\.json")
    slots = sorted(int(m[1]) for key in objects if (m := pattern.fullmatch(key)))
    listed = max((slot for slot in slots if near(slot, slots)), default=0)
    for slot in range(1, listed + 1):
        found = read_slot(objects, run, slot)
        if found is None and not own_above(objects, state, slot, listed):
            break
        fold_slot(objects, state, DAMAGED if found is None else found)
    to_the_end(objects, state)
    witness = newest_cache_above(objects, state)
    while state.slot < witness:
        found = read_slot(objects, run, state.slot + 1)
        fold_slot(objects, state, DAMAGED if found is None else found)
    to_the_end(objects, state)
    return state


def near(slot: int, slots: list[int]) -> bool:
    """Rule 9, its last sentence."""
    below = [0, *(other for other in slots if other <= slot)]
    return all(b - a <= 10000 for a, b in pairwise(below))


def own_above(objects: Objects, state: State, slot: int, listed: int) -> bool:
    above = (read_slot(objects, state.run, k) for k in range(slot + 1, listed + 1))
    return state.run_id is not None and any(
        isinstance(found, dict) and found["run_id"] == state.run_id for found in above
    )


def to_the_end(objects: Objects, state: State) -> None:
    while (found := read_slot(objects, state.run, state.slot + 1)) is not None:
        fold_slot(objects, state, found)


def newest_cache_above(objects: Objects, state: State) -> int:
    """Rule 16: the slot of the witness, or 0."""
    pattern = re.compile(rf"runs/{re.escape(state.run)}/folds/(\d{{20}})-([0-9a-f]{{64}})\.json")
    slots = [0]
    for key, data in objects.items():
        match = pattern.fullmatch(key)
        if match and 0 < int(match[1]) - state.slot <= 10000 and state.run_id is not None:
            slots += [int(match[1])] if is_witness(data, state, int(match[1]), match[2]) else []
    return max(slots)


def is_witness(data: bytes, state: State, slot: int, head: str) -> bool:
    try:
        cache = json.loads(data)
        named = (cache["fold_version"], cache["slot"], cache["head"], cache["state"]["run_id"])
        return seal_holds(cache) and named == (5, slot, head, state.run_id)
    except (ValueError, KeyError, TypeError):
        return False


def is_contradicted(objects: Objects, state: State, record: dict[str, Any]) -> bool:
    """Rule 19."""
    if record["run_id"] != state.run_id:
        return False
    slot = record["slot"] + 1
    while isinstance(above := read_slot(objects, state.run, slot), dict):
        if above["run_id"] == state.run_id:
            between = [f"damaged:{n}" for n in range(record["slot"], slot)]
            own = above["prev"] in (record["digest"], *between)
            return above["kind"] != "Filler" and not own
        slot += 1
    return False


def fold_slot(objects: Objects, state: State, found: Any) -> None:
    if (
        found == DAMAGED
        or (found["kind"] == "Filler" and found["run_id"] == state.run_id)
        or is_contradicted(objects, state, found)
    ):
        fold_damaged(state)
        return
    counts = is_effective(state, found)
    state.slot += 1
    if not counts:
        return
    if found["run_id"] != state.run_id:
        begin(state, found["run_id"], None)
    state.head, state.head_slot = found["digest"], found["slot"]
    if found["v"] != 1 or found["kind"] not in KINDS:
        state.unknown.append(found["kind"])
    else:
        apply(state, found, found["body"])


def fold_damaged(state: State) -> None:
    """Rule 7."""
    state.slot += 1
    state.damaged.append(state.slot)
    state.unrepaired.append(state.slot)
    state.open_fence = None
    for version in state.versions.values():
        version.passed = set()


def is_effective(state: State, record: dict[str, Any]) -> bool:
    """Rule 3, line by line."""
    created, prev = record["kind"] == "RunCreated", record["prev"]
    damage_above = any(slot > state.head_slot for slot in state.damaged)
    between = [f"damaged:{slot}" for slot in range(state.head_slot, state.slot + 1)]
    continues = damage_above or prev == state.head or prev in between
    if created and prev is None:
        return state.run_id is None
    if state.run_id is None:
        return damage_above
    if created:
        return continues and (state.deleted or bool(state.damaged))
    if record["run_id"] != state.run_id:
        return state.deleted and damage_above and record["kind"] != "Filler"
    return bool(continues)


def apply(state: State, record: dict[str, Any], body: dict[str, Any]) -> None:
    """The table of effects."""
    match record["kind"]:
        case "RunCreated" | "RunDeleted":
            apply_run(state, record, body)
        case "Repaired":
            state.unrepaired = [slot for slot in state.unrepaired if slot != body["slot"]]
        case "Tagged" | "ForkPin" | "ForkReleased":
            apply_name(state, record["kind"], body)
        case "Verdict" | "Retire" | "Condemn" | "Swept":
            apply_to_versions(state, record["kind"], body)
        case "RolledBack":
            roll_back(state, body["to"])
        case "OriginDropped" | "Filler":
            pass
        case _:
            apply_attempt(state, record, body)


def apply_run(state: State, record: dict[str, Any], body: dict[str, Any]) -> None:
    if record["kind"] == "RunCreated":
        begin(state, record["run_id"], body["origin"])
        return
    state.deleted, state.open_fence = True, None
    for version in state.versions.values():
        version.status = "condemned" if version.kept else version.status


def begin(state: State, run_id: str, origin: Any) -> None:
    """What RunCreated does; also rule 5, where it is lost."""
    state.deleted, state.open_fence = False, None
    state.run_id, state.origin = run_id, origin
    state.attempts, state.versions, state.tags, state.pins = {}, {}, {}, {}


def apply_attempt(state: State, record: dict[str, Any], body: dict[str, Any]) -> None:
    if record["kind"] == "AttemptStarted":
        state.open_fence = record["slot"]
        state.attempts[record["slot"]] = {
            **body,
            "outcome": None,
            "resume": None,
            "last_commit": None,
        }
        return
    attempt = state.attempts.get(body["fence"], {})
    match record["kind"]:
        case "AttemptAdopted":
            attempt.update(flow_run_id=body["flow_run_id"], run_count=body["run_count"])
        case "AttemptEnded":
            state.open_fence = None if state.open_fence == body["fence"] else state.open_fence
            if attempt.get("outcome") is None:
                attempt["outcome"] = body["outcome"]
        case "ResumeChosen":
            attempt["resume"] = None if body["origin"] else body["version"]
            revive(state, attempt["resume"])
        case "Commit":
            base = body["base"]["number"] if body["base"] else None
            fields = {name: body[name] for name in ("number", "manifest", "fence", "step", "bytes")}
            state.versions[body["number"]] = Version(**fields, base=base, slot=record["slot"])
            state.highest_number = max(state.highest_number, body["number"])
            attempt["last_commit"] = body["number"]


def apply_name(state: State, kind: str, body: dict[str, Any]) -> None:
    if kind == "ForkReleased":
        state.pins.pop(body["child_run_id"], None)
        return
    version = body["version"]
    if kind == "ForkPin":
        state.pins[body["child_run_id"]] = version["number"]
    elif version is None:
        state.tags.pop(body["name"], None)
    else:
        state.tags[body["name"]] = version["number"]
    revive(state, version)


def revive(state: State, name: dict[str, Any] | None) -> None:
    version = state.find(name)
    if version is not None and version.status == "retired":
        version.status = "live"


def roll_back(state: State, to: dict[str, Any] | None) -> None:
    state.open_fence = None
    floor = to["number"] if to else 0
    for number, version in state.versions.items():
        version.abandoned = number > floor or (version.abandoned and number != floor)


_MOVES = {
    "Retire": {"live": "retired"},
    "Condemn": {"live": "condemned", "retired": "condemned"},
    "Swept": {"condemned": "swept"},
}


def apply_to_versions(state: State, kind: str, body: dict[str, Any]) -> None:
    for name in body["versions"]:
        state.highest_number = max(state.highest_number, name["number"])
        version = state.find(name)
        if version is None:
            continue
        if kind == "Verdict":
            judge(version, body)
        else:
            version.status = _MOVES[kind].get(version.status, version.status)


def judge(version: Version, body: dict[str, Any]) -> None:
    """§7, rules 5 to 7."""
    check = body["check"]
    if check == "release":
        version.quarantine, version.bad_bytes, version.passed = None, False, set()
    elif body["passed"]:
        version.passed |= {check} & set(RUNGS)
    else:
        if version.quarantine is None:
            version.quarantine = body["reason"] or f"check '{check}' failed"
        version.bad_bytes = version.bad_bytes or check == "bytes"


def protected(state: State) -> set[int]:
    """§7, rules 14 to 16."""
    found = {*state.tags.values(), *state.pins.values()}
    attempt = state.attempts.get(state.open_fence or 0)
    if attempt is not None:
        found |= {attempt["resume"]["number"]} if attempt["resume"] else set()
        found |= {attempt["last_commit"]}
    good = [
        v for _, v in sorted(state.versions.items(), reverse=True)
        if v.kept and not v.abandoned and v.quarantine is None
    ]  # fmt: skip
    sound = [v for v in good if v.at_least_sound]
    waiting = [
        v for v in good if not v.at_least_sound and (not sound or v.number > sound[0].number)
    ]
    restorable = [v for v in good if v.rung == "restorable"]
    chosen = [*good[:1], *sound[:2], *restorable[:1], *waiting[:1], *waiting[-1:]]
    return (found | {v.number for v in chosen}) & set(state.versions)
