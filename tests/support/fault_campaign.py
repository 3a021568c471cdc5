"""`make test-faults`: the whole sweep on every backend, its counts, and the published matrix.

    python -m tests.support.fault_campaign --report docs/reliability.md

The run ends with 1 if anything broke, and says the case or the seed that replays it:

    python -m tests.support.fault_campaign --replay 1234

What was played is kept in a journal (`build/faults.jsonl`), so a campaign that is stopped goes on where it was, and
`--minutes` plays a campaign in pieces. The tables say how much of it was played.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_workers.store.credentials import S3Credentials
from tests.support.ceph import CephCluster
from tests.support.fault_journal import Journal, Outcome
from tests.support.fault_parts import (
    SEEDS_A_PART,
    Backend,
    play_histories,
    play_sequences,
    remove_guard,
    replay,
)
from tests.support.fault_report import Campaign, write_report
from tests.support.played_commit import played_commit
from tests.support.simulation.controls import CONTROLS
from tests.support.simulation.enumeration import FAULTS, STEPS, sequences

_SEQUENCES_A_PART = {"memory": 5, "s3": 1}
_SEEDS_A_PART = {"memory": SEEDS_A_PART, "local": 25, "s3": 5}
"""A part is what is lost when a campaign is stopped: on a server, where each call waits for it, it has to be small."""
_PROCESSES = 4
"""More than the cores: on a server most of the time is spent waiting."""
_SHOWN = 20
_PARTS_AT_ONCE = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print; the exit status."""
    options = _parser().parse_args(arguments)
    if options.replay is not None:
        return replay(options.replay)
    campaign = Campaign(
        command="make test-faults",
        longest=options.longest,
        protocols=len(STEPS),
        faults=len(FAULTS),
        commit=played_commit(),
    )
    about = {"commit": campaign.commit, "longest": options.longest}
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.processes) as pool:
        run = _Runner(
            pool.imap_unordered, Journal(options.journal, about), campaign, options.minutes
        )
        memory = Backend("memory")
        run.controls()
        if options.ceph:
            with _ceph() as backend:
                run.sequences(backend, 1)
                run.histories(backend, options.ceph, first=2_000_000)
        with tempfile.TemporaryDirectory(prefix="pawl-faults-") as folder:
            run.histories(Backend("local", folder), options.local, first=1_000_000)
        run.sequences(memory, options.longest)
        run.histories(memory, options.histories)
    sys.stdout.write("\n" + "\n".join(campaign.lines()) + "\n")
    if options.report is not None and not campaign.failed:
        write_report(options.report, campaign)
    return 0 if campaign.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make test-faults", description="The fault sweep.")
    parser.add_argument("--longest", type=int, default=3, help="protocol steps in a sequence")
    parser.add_argument("--histories", type=int, default=100_000, help="on the in-memory store")
    parser.add_argument("--local", type=int, default=5_000, help="histories in a local folder")
    parser.add_argument("--ceph", type=int, default=300, help="histories on Ceph; 0 leaves it out")
    parser.add_argument("--processes", type=int, default=_PROCESSES)
    parser.add_argument("--journal", type=Path, help="what was played; a campaign goes on from it")
    parser.add_argument("--minutes", type=float, help="begin no further part after so long")
    parser.add_argument("--report", type=Path, help="the page whose tables are written anew")
    parser.add_argument("--replay", type=int, metavar="SEED", help="play one history again")
    return parser


class _Runner:
    """Hands parts of the work to processes, leaves out what the journal knows, and tells how far they are."""

    def __init__(
        self,
        spread: Callable[..., Iterable[Outcome]],
        journal: Journal,
        campaign: Campaign,
        minutes: float | None,
    ) -> None:
        self._spread = spread
        self._journal = journal
        self._campaign = campaign
        self._until = None if minutes is None else time.monotonic() + 60 * minutes

    def histories(self, backend: Backend, count: int, *, first: int = 0) -> None:
        size = _SEEDS_A_PART[backend.name]
        starts = range(first, first + count, size)
        parts = {
            f"{backend.name} histories {start}": (backend, start, min(size, first + count - start))
            for start in starts
        }
        counts = self._campaign.histories
        self._campaign.wanted[backend.name] = count
        for outcome in self._play(play_histories, parts):
            counts[backend.name] = counts.get(backend.name, 0) + outcome.histories
            self._tell(f"{backend.name}: {counts[backend.name]} of {count} histories")

    def sequences(self, backend: Backend, longest: int) -> None:
        every, size = list(sequences(longest)), _SEQUENCES_A_PART[backend.name]
        parts = {
            f"{backend.name} sequences {start}": (backend, start, every[start : start + size])
            for start in range(0, len(every), size)
        }
        for done, outcome in enumerate(self._play(play_sequences, parts), start=1):
            self._campaign.add_cases(backend.name, outcome.counts)
            self._tell(f"{backend.name}: {done} of {len(parts)} parts of the enumeration")

    def controls(self) -> None:
        controls = self._campaign.controls
        for outcome in self._play(remove_guard, {f"guard {n}": n for n in range(len(CONTROLS))}):
            controls |= outcome.controls
            self._tell(f"{len(controls)} of {len(CONTROLS)} guards removed")

    def _play(
        self, function: Callable[[tuple[str, Any]], Outcome], parts: Mapping[str, Any]
    ) -> Iterator[Outcome]:
        """What each part came to: the known ones first, the others as they end."""
        known = [found for part in parts if (found := self._journal.find(part)) is not None]
        skip = {outcome.part for outcome in known}
        self._campaign.parts += len(parts)
        for outcome in known:
            yield self._count(outcome)
        todo = [(part, work) for part, work in parts.items() if part not in skip]
        # A pool takes all it is offered at once, so under a time limit it is offered a little at a time.
        step = len(todo) if self._until is None else _PARTS_AT_ONCE
        for start in range(0, len(todo), max(step, 1)):
            if self._until is not None and time.monotonic() > self._until:
                return
            for outcome in self._spread(function, todo[start : start + step]):
                self._journal.add(outcome)
                yield self._count(outcome)

    def _count(self, outcome: Outcome) -> Outcome:
        self._campaign.played += 1
        self._campaign.calls += outcome.calls
        self._campaign.broken += outcome.broken
        self._campaign.seconds += outcome.seconds
        return outcome

    def _tell(self, text: str) -> None:
        campaign = self._campaign
        sys.stderr.write(f"\r  {text}; {len(campaign.broken)} broken   ")
        for line in campaign.broken[campaign.shown : _SHOWN]:
            sys.stderr.write(f"\n{line}\n")
        campaign.shown = len(campaign.broken)
        sys.stderr.flush()


@contextlib.contextmanager
def _ceph() -> Iterator[Backend]:
    with CephCluster.running() as cluster:
        server = cluster.server
        credentials = S3Credentials(
            access_key_id=server.access_key, secret_access_key=server.secret_key,
            endpoint_url=server.endpoint, region=server.region,
        )  # fmt: skip
        yield Backend("s3", bucket=server.new_bucket(), credentials=credentials)


if __name__ == "__main__":
    sys.exit(main())
