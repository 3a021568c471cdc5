"""Every storage call of every protocol goes wrong in every way, in every sequence of up to three protocol steps.

A case is a sequence of steps, each a process of its own, the number of the step that suffers, the number of the call,
and the fault. The steps before it run without trouble, those after it are what others do next; then come the delayed
writes, the oracle, and one more attempt.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectInfo, ObjectStore
from tests.support.faulty_store import Call, Fault, FaultyStore, Plan, can_befall
from tests.support.simulation import programs
from tests.support.simulation.beginnings import begin, put_all
from tests.support.simulation.collecting import collects
from tests.support.simulation.inspection import check_everything
from tests.support.simulation.oracle import BrokenError
from tests.support.simulation.processes import Process, Program, run_alone
from tests.support.simulation.world import seed_ids

__all__ = [
    "BEGINNING",
    "FAULTS",
    "STEPS",
    "CaseError",
    "Counts",
    "Injury",
    "enumerate_sequence",
    "sequences",
]

BEGINNING = "four versions"

STEPS: dict[str, Callable[[int], Program]] = {
    "start": lambda n: functools.partial(programs.starts, flow=f"f{n}"),
    "commit": lambda _: programs.commits,
    "share": lambda _: functools.partial(programs.commits, share=True),
    "end": lambda _: programs.ends,
    "validate": lambda _: programs.validates,
    "tag": lambda _: programs.tags,
    "retire": lambda _: programs.retires,
    "collect": lambda _: collects,
    "roll back": lambda _: programs.rolls_back,
    "fork": lambda n: functools.partial(programs.fork, flow=f"f{n}"),
    "delete run": lambda _: programs.delete_run,
}
"""The protocols, by name; the argument makes names of their own."""


@dataclass(frozen=True, slots=True)
class Injury:
    """A way to go wrong: what befalls the call, and what happens to later ones."""

    name: str
    fault: Fault
    cut_off: bool = False
    """From this call on no answer comes, and the process is killed while it waits."""
    lands: str = "at the end"
    """When delayed writes reach the store: `while it waits`, `after the next step began`, or `at the end`."""

    def plan(self, number: int) -> Plan:
        def cut(call: Call) -> Fault | None:
            if call.number < number:
                return None
            return Fault.DELAY if call.is_write else Fault.UNAVAILABLE

        return cut if self.cut_off else lambda c: self.fault if c.number == number else None

    def befalls(self, call: Call) -> bool:
        return self.cut_off or can_befall(self.fault, call.verb)


FAULTS: tuple[Injury, ...] = (
    Injury("dies before", Fault.DIE_BEFORE),
    Injury("dies after", Fault.DIE_AFTER),
    Injury("loses the response", Fault.LOSE_RESPONSE),
    Injury("answers twice", Fault.ANSWER_TWICE),
    Injury("delays, lands while it waits", Fault.DELAY, lands="while it waits"),
    Injury("delays past its own retry", Fault.DELAY),
    Injury("cut off, lands after the next step began", Fault.DELAY, cut_off=True, lands="after the next step began"),
    Injury("cut off, lands at the end", Fault.DELAY, cut_off=True),
    Injury("tears an upload", Fault.TEAR),
    Injury("flips a bit in transfer", Fault.FLIP_BIT),
    Injury("flips a bit at rest", Fault.ROT),
    Injury("returns a stale listing", Fault.STALE_LIST),
    Injury("throttles (503)", Fault.UNAVAILABLE),
    Injury("returns 409", Fault.BUSY),
    Injury("returns 412 on a free key", Fault.TAKEN),
)  # fmt: skip


class CaseError(AssertionError):
    """A case broke something; the message names the case, which is what replays it."""


@dataclass(slots=True)
class Counts:
    """How many cases were played, by protocol and fault; and how many calls each protocol makes."""

    cases: dict[tuple[str, str], int] = field(default_factory=dict)
    crash_points: int = 0

    def add(self, step: str, injury: str) -> None:
        self.cases[step, injury] = self.cases.get((step, injury), 0) + 1

    @property
    def total(self) -> int:
        return sum(self.cases.values())


def sequences(longest: int) -> Iterator[tuple[str, ...]]:
    """Every sequence of up to `longest` steps, short ones first."""
    for length in range(1, longest + 1):
        yield from itertools.product(STEPS, repeat=length)


def enumerate_sequence(
    names: Sequence[str], counts: Counts, make: Callable[[], ObjectStore] = MemoryStore
) -> None:
    """Play every case of one sequence. Raises `CaseError` at the first that breaks an invariant."""
    clean = _Clean(names)
    for index, calls in enumerate(clean.calls):
        counts.crash_points += len(calls)
        for call, injury in itertools.product(calls, FAULTS):
            if injury.befalls(call):
                counts.add(names[index], injury.name)
                _play(_Case(tuple(names), index, call, injury), clean, make)


class _Clean:
    """The sequence without faults: the objects before each step, and the calls that each step makes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.objects: list[dict[str, bytes]] = []
        self.calls: list[list[Call]] = []
        self.done: list[list[Process]] = []
        store = begin(BEGINNING)
        before: dict[str, ObjectInfo | None] = {}
        done: list[Process] = []
        for number, name in enumerate(names):
            self.objects.append({info.key: store.get(info.key) for info in store.list("")})
            self.done.append(list(done))
            seed_ids(number)
            process = Process(name, STEPS[name](number))
            self.calls.append(list(run_alone(process, store, None, before).calls))
            done.append(process)


@dataclass(frozen=True, slots=True)
class _Case:
    names: tuple[str, ...]
    index: int
    call: Call
    injury: Injury

    def __str__(self) -> str:
        steps = ", ".join(self.names)
        where = (
            f"call {self.call.number} of step {self.index + 1}, {self.call.verb} {self.call.key}"
        )
        return f"[{steps}] {self.injury.name}: {where}"


def _play(case: _Case, clean: _Clean, make: Callable[[], ObjectStore]) -> None:
    inner = put_all(clean.objects[case.index], make())
    before: dict[str, ObjectInfo | None] = {}
    processes = list(clean.done[case.index])
    injured: FaultyStore | None = None
    for number, name in enumerate(case.names):
        if number < case.index:
            continue
        seed_ids(number)
        process = Process(f"{number} {name}", STEPS[name](number))
        processes.append(process)
        try:
            if number == case.index:
                injured = _injure(process, inner, case, before)
            else:
                run_alone(process, inner, _landing(injured, case.injury), before)
        except AssertionError as error:
            raise CaseError(f"{case}: {error}") from error
    _end(case, inner, processes, injured)


def _injure(
    process: Process, inner: ObjectStore, case: _Case, before: dict[str, ObjectInfo | None]
) -> FaultyStore:
    def meanwhile(store: FaultyStore) -> None:
        if case.injury.lands == "while it waits":
            store.land()

    return run_alone(process, inner, case.injury.plan(case.call.number), before, meanwhile)


def _landing(injured: FaultyStore | None, injury: Injury) -> Plan | None:
    if injured is None or injury.lands != "after the next step began":
        return None

    def land(call: Call) -> None:
        if call.is_write and call.write_number > 1:
            injured.land()

    return land


def _end(
    case: _Case, inner: ObjectStore, processes: list[Process], injured: FaultyStore | None
) -> None:
    if injured is not None:
        injured.land()
    rotten = {case.call.key} if case.injury.fault is Fault.ROT else set()
    try:
        check_everything(inner, processes, rotten)
    except BrokenError as error:
        raise CaseError(f"{case}: {error}") from error
