"""`make test-faults`: the whole sweep on every backend, its counts, and the published matrix.

    python -m tests.support.fault_campaign --report docs/reliability.md

The run ends with 1 if anything broke, and says the case or the seed that replays it:

    python -m tests.support.fault_campaign --replay 1234
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_workers.store.credentials import S3Credentials
from ray_workers.store.local_folder import LocalFolderStore
from ray_workers.store.memory import MemoryStore
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.s3 import S3Store
from tests.support.ceph import CephCluster
from tests.support.fault_report import Campaign, ControlResult, write_report
from tests.support.simulation.controls import CONTROLS, turns_red
from tests.support.simulation.enumeration import (
    FAULTS,
    STEPS,
    CaseError,
    Counts,
    enumerate_sequence,
    sequences,
)
from tests.support.simulation.histories import HistoryError, Mix, play_history
from tests.support.simulation.world import simulated

_SEEDS_A_CHUNK = 250
_SEQUENCES_A_CHUNK = 5
_CACHE_EVERY = 3
_SHOWN = 20


@dataclass(slots=True)
class Outcome:
    """What one chunk of work came to; small, because it crosses processes."""

    counts: Counts = field(default_factory=Counts)
    histories: int = 0
    calls: int = 0
    broken: list[str] = field(default_factory=list)
    controls: dict[int, ControlResult] = field(default_factory=dict)


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
        return MemoryStore()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print; the exit status."""
    options = _parser().parse_args(arguments)
    if options.replay is not None:
        return _replay(options.replay)
    campaign = Campaign(
        command="make test-faults",
        longest=options.longest,
        protocols=len(STEPS),
        faults=len(FAULTS),
    )
    started = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.processes) as pool:
        run = _Runner(pool.imap_unordered)
        _in_memory(run, campaign, options)
        with tempfile.TemporaryDirectory(prefix="pawl-faults-") as folder:
            run.histories(campaign, Backend("local", folder), options.local, first=1_000_000)
        if options.ceph:
            with _ceph() as backend:
                _on_ceph(run, campaign, backend, options.ceph)
        run.controls(campaign)
    campaign.seconds = time.monotonic() - started
    sys.stdout.write("\n" + "\n".join(campaign.lines()) + "\n")
    if options.report is not None and campaign.good:
        write_report(options.report, campaign)
    return 0 if campaign.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make test-faults", description="The fault sweep.")
    parser.add_argument("--longest", type=int, default=3, help="protocol steps in a sequence")
    parser.add_argument("--histories", type=int, default=100_000, help="on the in-memory store")
    parser.add_argument("--local", type=int, default=5_000, help="histories in a local folder")
    parser.add_argument("--ceph", type=int, default=300, help="histories on Ceph; 0 leaves it out")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report", type=Path, help="the page whose tables are written anew")
    parser.add_argument("--replay", type=int, metavar="SEED", help="play one history again")
    return parser


class _Runner:
    """Hands chunks of work to processes and tells how far they are."""

    def __init__(self, spread: Callable[..., Iterable[Outcome]]) -> None:
        self._spread = spread

    def histories(
        self, campaign: Campaign, backend: Backend, count: int, *, first: int = 0
    ) -> None:
        size = _SEEDS_A_CHUNK if backend.name == "memory" else 25
        starts = range(first, first + count, size)
        work = [(backend, start, min(size, first + count - start)) for start in starts]
        done = 0
        for outcome in self._spread(_play_chunk, work):
            done += outcome.histories
            campaign.histories[backend.name] = done
            campaign.calls += outcome.calls
            campaign.broken += outcome.broken
            _tell(f"{backend.name}: {done} of {count} histories", campaign)

    def sequences(self, campaign: Campaign, backend: Backend, longest: int) -> None:
        every = list(sequences(longest))
        starts = range(0, len(every), _SEQUENCES_A_CHUNK)
        work = [(backend, start, every[start : start + _SEQUENCES_A_CHUNK]) for start in starts]
        for done, outcome in enumerate(self._spread(_enumerate_chunk, work), start=1):
            campaign.add_cases(backend.name, outcome.counts.cases, outcome.counts.crash_points)
            campaign.broken += outcome.broken
            _tell(f"{backend.name}: {done} of {len(work)} parts of the enumeration", campaign)

    def controls(self, campaign: Campaign) -> None:
        for outcome in self._spread(_remove_guard, range(len(CONTROLS))):
            campaign.controls |= outcome.controls
            _tell(f"{len(campaign.controls)} of {len(CONTROLS)} guards removed", campaign)


def _in_memory(run: _Runner, campaign: Campaign, options: argparse.Namespace) -> None:
    memory = Backend("memory")
    run.sequences(campaign, memory, options.longest)
    run.histories(campaign, memory, options.histories)


def _on_ceph(run: _Runner, campaign: Campaign, backend: Backend, count: int) -> None:
    run.sequences(campaign, backend, 1)
    run.histories(campaign, backend, count, first=2_000_000)


@contextlib.contextmanager
def _ceph() -> Iterator[Backend]:
    with CephCluster.running() as cluster:
        server = cluster.server
        credentials = S3Credentials(
            access_key_id=server.access_key, secret_access_key=server.secret_key,
            endpoint_url=server.endpoint, region=server.region,
        )  # fmt: skip
        yield Backend("s3", bucket=server.new_bucket(), credentials=credentials)


def _play_chunk(work: tuple[Backend, int, int]) -> Outcome:
    backend, start, count = work
    outcome = Outcome()
    mix = Mix()
    # Every second chunk writes and reads many fold caches, the others hardly any.
    cache_every = _CACHE_EVERY if (start // _SEEDS_A_CHUNK) % 2 else None
    with simulated(cache_every=cache_every):
        for seed in range(start, start + count):
            outcome.histories += 1
            try:
                outcome.calls += play_history(seed, mix, backend.fresh(seed))
            except HistoryError as error:
                outcome.broken.append(f"{backend.name}: {error}")
    return outcome


def _enumerate_chunk(work: tuple[Backend, int, Sequence[Sequence[str]]]) -> Outcome:
    backend, number, chunk = work
    outcome = Outcome()
    fresh = itertools.count(number * 100_000)
    with simulated():
        for names in chunk:
            try:
                enumerate_sequence(names, outcome.counts, lambda: backend.fresh(next(fresh)))
            except CaseError as error:
                outcome.broken.append(f"{backend.name}: {error}")
    return outcome


def _remove_guard(number: int) -> Outcome:
    control = CONTROLS[number]
    red = turns_red(control)
    result = ControlResult(
        guard=control.guard,
        rule=control.rule,
        histories=None if red is None else red.histories,
        broken="" if red is None else red.invariant,
    )
    return Outcome(controls={number: result})


def _replay(seed: int) -> int:
    cache_every = _CACHE_EVERY if (seed // _SEEDS_A_CHUNK) % 2 else None
    with simulated(cache_every=cache_every):
        try:
            play_history(seed, Mix())
        except HistoryError as error:
            sys.stdout.write(f"{error}\n")
            return 1
    sys.stdout.write(f"seed {seed}: nothing broke\n")
    return 0


def _tell(text: str, campaign: Campaign) -> None:
    sys.stderr.write(f"\r  {text}; {len(campaign.broken)} broken   ")
    for line in campaign.broken[campaign.shown : _SHOWN]:
        sys.stderr.write(f"\n{line}\n")
    campaign.shown = len(campaign.broken)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
