"""The parts of a fault campaign, each played in a process of its own: sequences, histories, a guard removed."""

from __future__ import annotations

import functools
import itertools
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.s3 import S3Store
from tests.support.fault_journal import Outcome
from tests.support.fault_report import ControlResult
from tests.support.simulation.controls import CONTROLS, turns_red
from tests.support.simulation.copied_store import CopiedStore
from tests.support.simulation.enumeration import CaseError, enumerate_sequence
from tests.support.simulation.histories import HistoryError, Mix, play_history
from tests.support.simulation.world import simulated

__all__ = ["SEEDS_A_PART", "Backend", "play_histories", "play_sequences", "remove_guard", "replay"]

SEEDS_A_PART = 250
_CACHE_EVERY = 3


@dataclass(frozen=True, slots=True)
class Backend:
    """Where histories are played: `memory`, `local`, or `s3` with what it takes to reach the server."""

    name: str
    place: str = ""
    bucket: str = ""
    credentials: S3Credentials | None = None

    def fresh(self, number: int) -> ObjectStore:
        if self.name == "local":
            return LocalFolderStore(Path(self.place) / str(number))
        if self.name == "s3":
            return S3Store(self.bucket, f"h{number}", self.credentials)
        return CopiedStore()

    def clear(self, number: int) -> None:
        """Away with the folder of one history: five thousand of them take minutes at the end."""
        if self.name == "local":
            shutil.rmtree(Path(self.place) / str(number), ignore_errors=True)


def _timed(play: Callable[[Outcome, Any], None]) -> Callable[[tuple[str, Any]], Outcome]:
    """A part by its name and its work, with the processor seconds that it took."""

    @functools.wraps(play)
    def timed(named: tuple[str, Any]) -> Outcome:
        part, work = named
        outcome = Outcome(part=part)
        started = time.process_time()
        play(outcome, work)
        outcome.seconds = time.process_time() - started
        return outcome

    return timed


@_timed
def play_histories(outcome: Outcome, work: tuple[Backend, int, int]) -> None:
    backend, start, count = work
    mix = Mix()
    with simulated(cache_every=_caches_of(start)):
        for seed in range(start, start + count):
            outcome.histories += 1
            try:
                outcome.calls += play_history(seed, mix, backend.fresh(seed))
            except HistoryError as error:
                outcome.broken.append(f"{backend.name}: {error}")
            backend.clear(seed)


@_timed
def play_sequences(outcome: Outcome, work: tuple[Backend, int, Sequence[Sequence[str]]]) -> None:
    backend, number, chunk = work
    fresh = itertools.count(number * 100_000)
    with simulated():
        for names in chunk:
            try:
                enumerate_sequence(names, outcome.counts, lambda: backend.fresh(next(fresh)))
            except CaseError as error:
                outcome.broken.append(f"{backend.name}: {error}")


@_timed
def remove_guard(outcome: Outcome, number: int) -> None:
    control = CONTROLS[number]
    red = turns_red(control)
    outcome.controls[number] = ControlResult(
        guard=control.guard,
        rule=control.rule,
        histories=None if red is None else red.histories,
        broken="" if red is None else red.invariant,
    )


def replay(seed: int) -> int:
    """Play one history again, in memory; the exit status."""
    with simulated(cache_every=_caches_of(seed)):
        try:
            play_history(seed, Mix())
        except HistoryError as error:
            sys.stdout.write(f"{error}\n")
            return 1
    sys.stdout.write(f"seed {seed}: nothing broke\n")
    return 0


def _caches_of(seed: int) -> int | None:
    """Every second part writes and reads many fold caches, the others hardly any."""
    return _CACHE_EVERY if (seed // SEEDS_A_PART) % 2 else None
