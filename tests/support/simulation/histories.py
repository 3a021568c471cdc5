"""Seeded random histories: processes side by side on one run, faults at any call, writes that land at any time."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray_workers.store.object_store import ObjectStore
from tests.support.faulty_store import Call, Fault, FaultyStore, can_befall
from tests.support.simulation import programs
from tests.support.simulation.beginnings import BEGINNINGS, begin
from tests.support.simulation.collecting import collects, sweeps
from tests.support.simulation.copied_store import CopiedStore
from tests.support.simulation.inspection import check_everything, follow
from tests.support.simulation.oracle import BrokenError
from tests.support.simulation.processes import Process, Program, Turns
from tests.support.simulation.programs import RUN
from tests.support.simulation.world import seed_ids

__all__ = ["HistoryError", "Mix", "play_history"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How often what takes part; every number is a weight or a chance."""

    writers: int = 2
    """At least so many attempts."""
    others: tuple[tuple[str, int], ...] = (
        ("validate", 4), ("scrub", 1), ("tag", 2), ("retire", 3), ("purge", 1), ("collect", 2), ("sweep", 2), ("retry", 1), ("older", 1), ("drill", 1), ("roll back", 1), ("end", 1),
        ("restart", 2), ("fork", 1), ("delete run", 1), ("attempt", 2),
    )  # fmt: skip
    fault: float = 0.03
    """Chance of a fault at each storage call."""
    rot: float = 0.05
    """Chance that one write of the history is damaged at rest."""
    blind_sweepers: bool = False
    """Every read that a sweeper makes of one manifest, always the same one, goes wrong."""
    beginnings: tuple[str, ...] = tuple(BEGINNINGS)


class HistoryError(AssertionError):
    """A history broke something; the message holds what replays it."""


_PROGRAMS: dict[str, Callable[[int, random.Random], Program]] = {
    "attempt": lambda n, r: functools.partial(
        programs.attempt, flow=f"f{n}", versions=r.randint(1, 2), share=r.random() < 0.5,
        required=r.choice(["sound", "sound", "committed"]),
    ),
    "restart": lambda _, r: functools.partial(programs.restart, flow=r.choice(["now", "f0"])),
    "validate": lambda *_: programs.validates,
    "scrub": lambda *_: programs.scrubs,
    "tag": lambda _, r: functools.partial(programs.tags, name=r.choice("ab"), back=r.randint(0, 3)),
    "retire": lambda _, r: functools.partial(programs.retires, keep=r.randint(1, 2)),
    "purge": lambda *_: functools.partial(programs.retires, keep=0),
    "collect": lambda *_: collects,
    "sweep": lambda *_: sweeps,
    "retry": lambda _, r: functools.partial(
        programs.attempt, flow="f0", count=r.randint(1, 3), versions=1, reverse=r.random() < 0.5,
    ),
    "older": lambda *_: programs.older_program_caches,
    "drill": lambda *_: programs.drills,
    "roll back": lambda *_: programs.rolls_back,
    "end": lambda *_: programs.ends,
    "past its base": lambda n, _: functools.partial(programs.refers_past_its_base, flow=f"f{n}"),
    "fork": lambda n, r: functools.partial(programs.fork, flow=f"f{n}", oldest=r.random() < 0.5),
    "delete run": lambda *_: programs.delete_run,
}  # fmt: skip
_FIRST = f"/log/{1:020d}.json"
_ANYWHERE = tuple(f for f in Fault if f not in (Fault.ROT, Fault.FLIP_BIT))


def play_history(seed: int, mix: Mix, inner: ObjectStore | None = None) -> int:
    """One history, checked at its end; how many storage calls it took.

    Raises:
        HistoryError: an invariant broke.
    """
    chance = random.Random(seed)  # noqa: S311 - to be played again, not a secret
    store = begin(chance.choice(mix.beginnings), inner or CopiedStore())
    seed_ids(seed)
    cast = _cast(chance, mix)
    faults = _Faults(chance, mix, cast)
    slots = follow(store, RUN).slot
    if chance.random() < mix.rot:
        faults.rot_something(store)
    turns = Turns(store, chance)
    processes = []
    for number, name in enumerate(cast):
        process = Process(f"{number} {name}", _PROGRAMS[name](number, chance))
        processes.append(process)
        blind = mix.blind_sweepers and name == "collect"
        turns.add(process, faults.blind if blind else faults.plan)
    try:
        turns.run()
        turns.land()
        check_everything(store, processes, faults.rotten, before=slots)
    except BrokenError as error:
        told = "; ".join(f"{p.name}: {p.told.ended}" for p in processes)
        raise HistoryError(f"seed {seed}: {error}\n  {told}\n  faults: {faults.made}") from error
    except AssertionError as error:
        raise HistoryError(f"seed {seed}: {error}") from error
    return sum(len(p.store.calls) for p in processes if p.store is not None)


def _cast(chance: random.Random, mix: Mix) -> list[str]:
    names = [name for name, _ in mix.others]
    weights = [weight for _, weight in mix.others]
    others = chance.choices(names, weights, k=chance.randint(1, 3))
    cast = ["attempt"] * mix.writers + others
    chance.shuffle(cast)
    return cast


class _Faults:
    """Draws a fault for a call. At most one bit is flipped in a history: damage seen twice is damage.

    The record that creates a run never rots here: while nothing stands above it, its writer and the others would each
    make a run of their own.
    """

    def __init__(self, chance: random.Random, mix: Mix, cast: Sequence[str]) -> None:
        self._chance = chance
        self._rate = mix.fault
        self._flips = 1
        self._spared = "/log/" if "delete run" in cast else _FIRST
        self._rots = 1 if chance.random() < mix.rot else 0
        self._unreadable = ""
        self.rotten: set[str] = set()
        self.made: list[str] = []

    def rot_something(self, store: ObjectStore) -> None:
        """Damage one object that is there already: a shard, a manifest, a record but the first, a fold cache."""
        found = [info.key for info in store.list("") if self._spared not in info.key]
        if found:
            self._rots = 0
            key = self._chance.choice(found)
            FaultyStore(store, {1: Fault.ROT}).put(key, store.get(key))
            self.rotten.add(key)
            self.made.append(f"ROT before all {key}")

    def plan(self, call: Call) -> Fault | None:
        may_rot = call.verb in ("put", "put_if_absent") and self._spared not in call.key
        if self._rots and may_rot and self._chance.random() < 0.1:
            self._rots = 0
            self.rotten.add(call.key)
            return self._note(Fault.ROT, call)
        if self._chance.random() >= self._rate:
            return None
        if self._flips and call.verb.startswith("get") and self._chance.random() < 0.3:
            self._flips = 0
            return self._note(Fault.FLIP_BIT, call)
        fault = _ANYWHERE[int(self._chance.random() * len(_ANYWHERE))]
        return self._note(fault, call) if can_befall(fault, call.verb) else None

    def blind(self, call: Call) -> Fault | None:
        """For a sweeper that cannot read one manifest."""
        if call.verb != "get" or "/manifests/" not in call.key:
            return None
        self._unreadable = self._unreadable or call.key
        return self._note(Fault.FLIP_BIT, call) if call.key == self._unreadable else None

    def _note(self, fault: Fault, call: Call) -> Fault:
        self.made.append(f"{fault.name} {call.verb} {call.key}")
        return fault
