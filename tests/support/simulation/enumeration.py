"""Every storage call of every protocol goes wrong in every way, in every sequence of up to three protocol steps.

A case is a sequence of steps, each a process of its own, the number of the step that suffers, the number of the call,
and the fault. The steps before it run without trouble, those after it are what others do next; then come the delayed
writes, the oracle, and one more attempt.

What comes after the injured step depends on nothing but what that step left: the store, the writes still on their way,
and what the process told and wrote. Ids are drawn anew at each step. So in memory, cases of one sequence that left
exactly the same go on as one (`Aftermath`), and `Counts.endings` says how many differed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ray_workers.store.object_store import ObjectInfo, ObjectStore
from tests.support.faulty_store import Call, Fault, FaultyStore, Plan, can_befall
from tests.support.simulation import programs
from tests.support.simulation.beginnings import begin, put_all
from tests.support.simulation.collecting import sweeps
from tests.support.simulation.copied_store import CopiedStore
from tests.support.simulation.inspection import check_everything
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
    "sweep": lambda _: sweeps,
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
    endings: int = 0
    """How many cases left something behind that no other of their sequence did."""

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
    names: Sequence[str],
    counts: Counts,
    make: Callable[[], ObjectStore] = CopiedStore,
    *,
    merge: bool = True,
) -> None:
    """Play every case of one sequence. Raises `CaseError` at the first that breaks an invariant.

    Args:
        names: the steps.
        counts: what is played is added to it.
        make: a fresh store for each case.
        merge: go on once from what several cases left alike; only a `CopiedStore` can tell.
    """
    clean = _Clean(names)
    seen: set[Aftermath] = set()
    for index, calls in enumerate(clean.calls):
        counts.crash_points += len(calls)
        for call, injury in itertools.product(calls, FAULTS):
            if injury.befalls(call):
                counts.add(names[index], injury.name)
                case = _Case(tuple(names), index, call, injury)
                counts.endings += _play(case, clean, make(), seen if merge else None)


class _Clean:
    """The sequence without faults: the objects before each step, and the calls that each step makes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.objects: list[dict[str, bytes]] = []
        self.calls: list[list[Call]] = []
        self.done: list[list[Process]] = []
        store = CopiedStore()
        begin(BEGINNING, store)
        before: dict[str, ObjectInfo | None] = {}
        done: list[Process] = []
        for number, name in enumerate(names):
            self.objects.append(store.objects)
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

    @property
    def rotten(self) -> str:
        """The key that is damaged at rest; empty if none is."""
        return self.call.key if self.injury.fault is Fault.ROT else ""

    def __str__(self) -> str:
        steps = ", ".join(self.names)
        where = (
            f"call {self.call.number} of step {self.index + 1}, {self.call.verb} {self.call.key}"
        )
        return f"[{steps}] {self.injury.name}: {where}"


@dataclass(frozen=True, slots=True)
class Aftermath:
    """All that what comes after an injured step can depend on."""

    step: int
    objects: frozenset[tuple[str, bytes]]
    pending: tuple[tuple[str, str, bytes], ...]
    lands: str
    """When the pending ones land; empty if there are none."""
    rotten: str
    told: str
    writes: tuple[tuple[str, str], ...]


def _aftermath(
    case: _Case, inner: CopiedStore, process: Process, injured: FaultyStore
) -> Aftermath:
    pending = injured.pending
    return Aftermath(
        step=case.index,
        objects=frozenset(inner.objects.items()),
        pending=pending,
        lands=case.injury.lands if pending else "",
        rotten=case.rotten,
        told=repr(process.told),
        writes=tuple((call.verb, call.key) for call in injured.writes),
    )


def _play(case: _Case, clean: _Clean, inner: ObjectStore, seen: set[Aftermath] | None) -> bool:
    """Whether the case was played to its end; False if another one had left the same."""
    put_all(clean.objects[case.index], inner)
    seed_ids(case.index)
    process = _process(case, case.index)
    try:
        injured = _injure(process, inner, case)
        if seen is not None and isinstance(inner, CopiedStore):
            left = _aftermath(case, inner, process, injured)
            if left in seen:
                return False
            seen.add(left)
        _go_on(case, inner, [*clean.done[case.index], process], injured)
    except AssertionError as error:
        raise CaseError(f"{case}: {error}") from error
    return True


def _process(case: _Case, number: int) -> Process:
    name = case.names[number]
    return Process(f"{number} {name}", STEPS[name](number))


def _injure(process: Process, inner: ObjectStore, case: _Case) -> FaultyStore:
    def meanwhile(store: FaultyStore) -> None:
        if case.injury.lands == "while it waits":
            store.land()

    return run_alone(process, inner, case.injury.plan(case.call.number), {}, meanwhile)


def _go_on(case: _Case, inner: ObjectStore, processes: list[Process], injured: FaultyStore) -> None:
    """What others do next, what still lands, and the oracle. Raises `BrokenError`."""
    for number in range(case.index + 1, len(case.names)):
        seed_ids(number)
        processes.append(_process(case, number))
        run_alone(processes[-1], inner, _landing(injured, case.injury), {})
    injured.land()
    seed_ids(len(case.names))
    check_everything(inner, processes, {case.rotten} - {""})


def _landing(injured: FaultyStore, injury: Injury) -> Plan | None:
    if injury.lands != "after the next step began":
        return None

    def land(call: Call) -> None:
        if call.is_write and call.write_number > 1:
            injured.land()

    return land
