"""Arbitrary histories of a run's log: records within the rules and beyond them, and every kind of damage between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from ray_workers.store import bodies, keys
from ray_workers.store.bodies import Body, VersionName
from ray_workers.store.errors import ConflictError, NewerFormatError
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.memory import MemoryStore
from ray_workers.store.records import Author, Place, Record, _digest
from ray_workers.store.run_state import RUNGS, RunState

__all__ = ["NAMED", "RUN", "Step", "histories", "play"]

RUN = "history"
_CHECKS = (*RUNGS, "bytes", "release", "something")


@dataclass(frozen=True, slots=True)
class Step:
    what: str
    a: int
    b: int
    ruled: bool = True
    """Appended by `RunLog` if the rules allow it; else put there as it is."""


def _pick(state: RunState, index: int) -> VersionName | None:
    """A version; now and then none, or one that no log names."""
    names = [version.name for version in state.newest_first()]
    choices = [*names * 4, None, VersionName(number=index, manifest="0" * 64)]
    return choices[index % len(choices)]


def _some(state: RunState, index: int) -> tuple[VersionName, ...]:
    return tuple(name for name in (_pick(state, index), _pick(state, index + 1)) if name)


def _one(state: RunState, index: int) -> VersionName:
    return _pick(state, index) or VersionName(number=1, manifest="1" * 64)


def _fence(state: RunState, index: int) -> int:
    fences = [fence for fence in (state.open_fence, *state.attempts, 1) if fence is not None]
    return fences[index % len(fences)]


def _commit(state: RunState, a: int, b: int) -> Body:
    return bodies.Commit(
        fence=_fence(state, 0), number=state.next_number if b < 6 else 1, manifest=f"{state.slot:064x}", step=state.slot,
        bytes=b, base=_pick(state, a) if b == 3 else None,
    )  # fmt: skip


def _resume(state: RunState, a: int, b: int) -> Body:
    origin = bodies.RunOrigin(run="o", run_id="f" * 32, version=_one(state, a))
    return bodies.ResumeChosen(
        fence=_fence(state, 0), version=_pick(state, a), origin=origin if b == 5 else None,
        required=RUNGS[b % 2],
    )  # fmt: skip


def _tag(state: RunState, a: int, b: int) -> Body:
    present = state.versions.get(state.tags.get(f"tag{b % 2}", 0))
    expects = None if present is None else present.name
    return bodies.Tagged(name=f"tag{b % 2}", version=_pick(state, a), expects=expects)


def _verdict(state: RunState, a: int, b: int) -> Body:
    return bodies.Verdict(
        versions=_some(state, a), check=_CHECKS[b % len(_CHECKS)], passed=a % 3 != 0,
        reason=("", None, "because")[a % 3], checker="c",
    )  # fmt: skip


def _damage(state: RunState, index: int) -> int:
    slots = [*state.damaged, 1]
    return slots[index % len(slots)]


_BODIES: dict[str, Callable[[RunState, int, int], Body]] = {
    "create": lambda _, a, b: bodies.RunCreated(run_id=f"{a * 8 + b:032x}"),
    "start": lambda s, a, b: bodies.AttemptStarted(flow_run_id=f"f{a % 2}", run_count=s.slot, incarnation=b),
    "adopt": lambda s, a, b: bodies.AttemptAdopted(fence=_fence(s, a), flow_run_id="g", run_count=b),
    "end": lambda s, a, b: bodies.AttemptEnded(fence=_fence(s, a), outcome="failed", reason=str(b)),
    "resume": _resume,
    "commit": _commit,
    "verdict": _verdict,
    "tag": _tag,
    "back": lambda s, a, _: bodies.RolledBack(to=_pick(s, a)),
    "pin": lambda s, a, b: bodies.ForkPin(child=f"c{b}", child_run_id=f"{b % 2}", version=_one(s, a)),
    "unpin": lambda s, a, b: bodies.ForkReleased(child=f"c{b}", child_run_id=f"{b % 2}", version=_one(s, a)),
    "retire": lambda s, a, _: bodies.Retire(versions=_some(s, a)),
    "condemn": lambda s, a, _: bodies.Condemn(versions=_some(s, a)),
    "sweep": lambda s, a, _: bodies.Swept(versions=_some(s, a)),
    "drop": lambda *_: bodies.OriginDropped(),
    "delete": lambda *_: bodies.RunDeleted(),
    "filler": lambda *_: bodies.Filler(),
    "repair": lambda s, a, _: bodies.Repaired(slot=_damage(s, a)),
}  # fmt: skip
_TROUBLE = ("flip", "cut", "lose", "foreign", "stray", "hearsay", "unknown", "newer", "misfit")
_COMMON = ("commit", "commit", "start", "verdict", "verdict", "verdict", "retire", "tag")
_BEGINNING = tuple(Step(what, 0, 0) for what in ("create", "start", "commit", "commit"))

histories = st.lists(
    st.builds(
        Step,
        st.sampled_from((*_BODIES, *_COMMON * 5, *_TROUBLE)),
        st.integers(0, 40),
        st.integers(0, 7),
        st.integers(0, 7).map(bool),
    ),
    min_size=5,
    max_size=50,
)

NAMED = {
    "slot said to be damaged": [Step("hearsay", 0, 1), Step("commit", 0, 0)],
    "slot damaged and followed": [Step("commit", 0, 0), Step("commit", 0, 0), Step("flip", 0, 4), Step("tag", 0, 0)],
    "hole below the end": [Step("commit", 0, 0), Step("lose", 0, 3)],
    "hole filled": [Step("commit", 0, 0), Step("lose", 0, 3), Step("start", 0, 0), Step("commit", 0, 0)],
    "other run at the end": [Step("foreign", 0, 1), Step("foreign", 0, 0), Step("commit", 0, 0)],
    "deleted, wrongly and rightly created": [Step("delete", 0, 0), Step("stray", 0, 0), Step("create", 1, 1)],
    "all abandoned, one revived": [Step("back", 8, 0), Step("back", 1, 0)],
    "condemned while live": [Step("condemn", 0, 0, ruled=False), Step("sweep", 0, 0)],
    "retired, then condemned": [Step("retire", 0, 0, ruled=False), Step("condemn", 0, 0, ruled=False)],
    "older number again": [Step("commit", 0, 6, ruled=False), Step("commit", 0, 0)],
    "newer one sound": [Step("verdict", 19, 2, ruled=False)],
    "older one sound": [Step("verdict", 7, 2), Step("commit", 0, 0), Step("commit", 0, 0)],
    "oldest restorable": [Step("commit", 0, 0), Step("verdict", 11, 3), Step("verdict", 14, 2)],
    "three sound": [Step("commit", 0, 0), Step("verdict", 1, 2), Step("verdict", 14, 2)],
    "quarantined and released": [Step("verdict", 0, 4), Step("verdict", 0, 5)],
    "later kind, later version, bad body": [Step("misfit", 0, 1), Step("unknown", 0, 1), Step("newer", 0, 1)],
    "repaired": [Step("cut", 0, 3), Step("repair", 0, 0)],
}  # fmt: skip


def play(steps: list[Step]) -> Iterator[MemoryStore]:
    """One store with the log that the steps make, in a run that has begun: after each intrusion, and at the end."""
    store = MemoryStore()
    log: RunLog | None = None
    for step in (*_BEGINNING, *steps):
        if step.what in _TROUBLE or not step.ruled:
            _intrude(store, step)
            log = None
            yield store
        else:
            log = log or RunLog(store, RUN, by={}, sleep=lambda _: None)
            with contextlib.suppress(ConflictError, NewerFormatError):
                log.append(lambda state, step=step: _BODIES[step.what](state, step.a, step.b))  # type: ignore[misc]
    yield store


def _intrude(store: MemoryStore, step: Step) -> None:
    """Change the stored log as nobody may."""
    state = LogReader(store, RUN).fold()
    key = keys.log_key(RUN, 1 + (step.a * 8 + step.b) % max(1, state.slot))
    if step.what in ("flip", "cut", "lose"):
        data = store.get(key) if any(info.key == key for info in store.list(key)) else b""
        store.delete(key)
        if step.what != "lose":
            store.put(
                key, data[: len(data) // 2] if step.what == "cut" else data.replace(b"1", b"2", 1)
            )
        return
    make = _BODIES.get(step.what, _commit if step.b % 2 else _BODIES["create"])
    store.put(
        keys.log_key(RUN, state.slot + 1), _odd(state, make(state, step.a, step.b), step).to_bytes()
    )


def _odd(state: RunState, body: Body, step: Step) -> Record:
    prev = f"damaged:{state.slot}" if state.slot in state.damaged else state.head
    run_id = body.run_id if isinstance(body, bodies.RunCreated) else str(state.run_id)
    place = Place(slot=state.slot + 1, run_id=run_id, prev=prev)
    author = Author(write_id=f"{state.slot}", by={}, at="")
    if step.what == "foreign":
        place = replace(place, run_id="e" * 32)
    if step.what == "stray":
        place = replace(place, prev="0" * 64)
    if step.what == "hearsay":
        place = replace(place, prev=f"damaged:{state.slot}")
    record = Record.seal(body, place=place, author=author)
    return _resealed(record, step.what)


def _resealed(record: Record, what: str) -> Record:
    """A record of a later program, or one whose digest holds and whose body does not fit."""
    changes: dict[str, dict[str, object]] = {
        "unknown": {"kind": "Invented"},
        "newer": {"v": 2},
        "misfit": {"raw_body": {**record.raw_body, "fence": -1}},
    }
    if what not in changes:
        return record
    changed = replace(record, **changes[what])  # type: ignore[arg-type]
    return replace(changed, digest=_digest(changed._envelope()))
