"""A run's log in memory, without manifests and shards: short calls for tests that play the protocol's traces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ray_workers.store import keys
from ray_workers.store.attempts import start_attempt
from ray_workers.store.bodies import Body, Commit, RunCreated, Verdict, VersionName
from ray_workers.store.errors import PawlError
from ray_workers.store.log import RunLog
from ray_workers.store.log_reader import LogReader
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.records import Record
from ray_workers.store.run_state import RunState
from tests.support.faulty_store import Call, Fault, Plan

__all__ = [
    "RUN",
    "RUN_ID",
    "Trace",
    "append",
    "breaks_without_guard",
    "commit",
    "commit_body",
    "damage",
    "folded",
    "judge",
    "lose",
    "new_run",
    "on_slot",
    "open_log",
    "refusal",
    "start",
]

RUN = "run"
RUN_ID = "a" * 32


@dataclass(frozen=True, slots=True)
class Trace:
    """A history that once broke something, and how to take away the one guard that makes it harmless."""

    name: str
    play: Callable[[], None]
    """Asserts what must hold."""
    remove_guard: Callable[[pytest.MonkeyPatch], None]


def breaks_without_guard(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> bool:
    trace.remove_guard(monkeypatch)
    try:
        trace.play()
    except AssertionError:
        return True
    return False


def open_log(store: ObjectStore, *, meanwhile: Callable[[], object] = lambda: None) -> RunLog:
    """The log as one process sees it; what happens while it pauses is `meanwhile`."""

    def sleep(_: float) -> None:
        meanwhile()

    return RunLog(store, RUN, by={}, sleep=sleep)


def new_run(
    store: ObjectStore | None = None, *, run_id: str = RUN_ID
) -> tuple[MemoryStore, RunLog]:
    """A run that was created (slot 1) and in which an attempt holds the fence (slot 2)."""
    inner = MemoryStore()
    log = open_log(store or inner)
    append(log, RunCreated(run_id=run_id))
    start(log)
    return inner, log


def append(log: RunLog, body: Body) -> Record:
    record = log.append(lambda _: body)
    assert record is not None
    return record


def refusal(log: RunLog, body: Body) -> type[PawlError] | None:
    """The class of the error with which `body` is refused; None: it was appended."""
    try:
        append(log, body)
    except PawlError as error:
        return type(error)
    return None


def start(log: RunLog, *, flow: str = "flow", count: int = 1, incarnation: int = 0) -> int:
    return start_attempt(log, flow_run_id=flow, run_count=count, incarnation=incarnation)


def commit(log: RunLog, *, step: int, fence: int | None = None) -> VersionName:
    """A version without bytes, under the open fence unless another is given."""

    def decide(state: RunState) -> Commit:
        own = state.open_fence if fence is None else fence
        return Commit(
            fence=own or 0, number=state.next_number, manifest=f"{step:064x}", step=step, bytes=1
        )

    record = log.append(decide)
    assert record is not None
    assert isinstance(record.body, Commit)
    return VersionName(number=record.body.number, manifest=record.body.manifest)


def commit_body(state: RunState, *, fence: int) -> Commit:
    """A Commit that the rules allow if `fence` is open."""
    step = 1000 + state.slot
    return Commit(
        fence=fence, number=state.next_number, manifest=f"{step:064x}", step=step, bytes=1
    )


def judge(
    log: RunLog, *names: VersionName, check: str = "sound", reason: str | None = None
) -> None:
    append(
        log,
        Verdict(versions=names, check=check, passed=reason is None, reason=reason, checker="test"),
    )


def folded(store: ObjectStore) -> RunState:
    """What a fresh reader makes of the log."""
    return LogReader(store, RUN).fold()


def damage(store: ObjectStore, slot: int) -> None:
    """The record in `slot` becomes bytes that are no record."""
    key = keys.log_key(RUN, slot)
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put(key, data)


def lose(store: ObjectStore, slot: int) -> None:
    """The record in `slot` disappears."""
    store.delete(keys.log_key(RUN, slot))


def on_slot(slot: int, *faults: Fault) -> Plan:
    """The first create of this slot suffers the first fault, the next create the next, and so on."""
    left = list(faults)

    def plan(call: Call) -> Fault | None:
        hit = call.verb == "put_if_absent" and call.key == keys.log_key(RUN, slot)
        return left.pop(0) if hit and left else None

    return plan
