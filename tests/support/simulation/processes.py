"""Processes that share one store and take turns at every storage call, in an order that a seed decides.

Each process is a greenlet over a `FaultyStore` of its own. It hands over before each call, so any interleaving of calls
can come about, in one thread and again from the same seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from greenlet import getcurrent, greenlet

from ray_workers.store.errors import PawlError
from ray_workers.store.object_store import ObjectInfo, ObjectStore
from tests.support.faulty_store import Call, Died, Fault, FaultyStore, Plan
from tests.support.simulation.told import Told

__all__ = ["MOST_CALLS", "Process", "Program", "Turns", "run_alone"]

MOST_CALLS = 3000
"""Storage calls after which a process counts as one that never ends."""
PAUSES = 4
"""How often a process that is cut off waits before it is killed."""


class Program(Protocol):
    """What a process does; it says what it knows in `told`."""

    def __call__(self, store: ObjectStore, told: Told) -> None: ...


@dataclass(slots=True, eq=False)
class Process:
    """One process: its program, its faulty view of the store, and what it told the world."""

    name: str
    program: Program
    told: Told = field(default_factory=Told)
    store: FaultyStore | None = None
    wait: Callable[[], None] = lambda: None
    """What happens while the process sleeps."""
    current: ClassVar[Process | None] = None

    def run(self) -> None:
        """To the end, whatever the end is: done, refused with one of our errors, or dead."""
        assert self.store is not None
        try:
            self.program(self.store, self.told)
        except Died:
            self.told.ended = "died"
        except PawlError as error:
            self.told.ended = error.kind
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - what is not one of our errors is a finding
            self.told.ended = f"{type(error).__name__}: {error}"
        else:
            self.told.ended = "done"

    @classmethod
    def sleep(cls, _: float) -> None:
        """Stands in for every `time.sleep` of the code under test."""
        if cls.current is not None:
            cls.current.wait()


def run_alone(
    process: Process,
    inner: ObjectStore,
    plan: Plan | None,
    before: dict[str, ObjectInfo | None],
    meanwhile: Callable[[FaultyStore], object] = lambda _: None,
) -> FaultyStore:
    """Run one process to its end; one that has to wait more than a few times is killed while it waits."""
    left = [PAUSES]

    def count(call: Call) -> Fault | None:
        assert call.number <= MOST_CALLS, f"{process.name} goes on for ever"
        return None if plan is None else plan(call)

    store = process.store = FaultyStore(inner, count, before=before)

    def wait() -> None:
        meanwhile(store)
        left[0] -= 1
        if left[0] < 0:
            raise Died("killed while it waited")

    process.wait = wait
    Process.current = process
    try:
        process.run()
    finally:
        Process.current = None
    return store


class Turns:
    """Runs processes side by side.

    Args:
        inner: the store that they share.
        seed: decides who goes on, who stalls, and when delayed writes land.
        stall: chance, for each call, that the process stands still for a while.
    """

    def __init__(self, inner: ObjectStore, seed: random.Random, *, stall: float = 0.04) -> None:
        self._inner = inner
        self._random = seed
        self._stall = stall
        self._before: dict[str, ObjectInfo | None] = {}
        self._stores: list[FaultyStore] = []
        self._sleeping: dict[greenlet, int] = {}
        self._running: dict[greenlet, Process] = {}
        self._hub = getcurrent()
        self._tick = 0

    def add(self, process: Process, plan: Plan | None) -> None:
        """Let `process` take part from now on."""

        def turn(call: Call) -> Fault | None:
            assert call.number <= MOST_CALLS, f"{process.name} goes on for ever"
            self._hand_over()
            return None if plan is None else plan(call)

        process.store = FaultyStore(self._inner, turn, before=self._before)
        process.wait = self._hand_over
        self._stores.append(process.store)
        self._running[greenlet(process.run)] = process

    def run(self) -> None:
        """Until every process has ended."""
        while self._running:
            self._tick += 1
            chosen = self._choose()
            self._turn_of(chosen)
            if self._random.random() < 0.02:
                self.land(1)

    def land(self, count: int | None = None) -> None:
        """Let delayed writes reach the store."""
        for store in self._stores:
            store.land(count)

    def _choose(self) -> greenlet:
        awake = [g for g in self._running if self._sleeping.get(g, 0) <= self._tick]
        candidates: Sequence[greenlet] = awake or list(self._running)
        return candidates[int(self._random.random() * len(candidates))]

    def _turn_of(self, chosen: greenlet) -> None:
        # A process goes on for some calls in a row: to be overtaken at every single one would rarely get anywhere.
        for _ in range(1 + int(self._random.expovariate(0.2))):
            Process.current = self._running[chosen]
            try:
                chosen.switch()
            finally:
                Process.current = None
            if chosen.dead:
                del self._running[chosen]
                return
            if self._random.random() < self._stall:
                self._sleeping[chosen] = self._tick + int(self._random.expovariate(0.05))
                return

    def _hand_over(self) -> None:
        self._hub.switch()
