"""`make bench-scale`: what grows with ranks, with versions, with records; writes its tables into docs/performance.md.

One process plays all ranks, so no network and no Ray is in it: what is measured is the coordinator's own work, the store
calls, and the sizes. Processor seconds beside the clock, because the clock tells of whatever else runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.page import Rows, machine, replace_block, table
from benchmarks.scale_sim import (
    RUN,
    Resumed,
    Save,
    copy_run,
    drive,
    long_log,
    many_versions,
    resume,
)
from benchmarks.sink import sink
from benchmarks.targets import sink_target
from ray_workers.store.log_reader import LogReader
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget

__all__ = ["DECISION", "decision_pairs", "fold_rows", "rank_rows", "resume_rows"]

DECISION = "decision"
"""Key of the figure that `decision_pairs` gives."""
_VERSIONS = 1000

_BEHIND = 1500
"""Records above the newest cache, about as many as there are at most in a log of 100,000."""


def rank_rows(worlds: Sequence[int], *, saves: int, tensors: int) -> Rows:
    rows = [
        ["ranks", "messages a save", "bytes of one", "gathering, processor", "commit, processor", "both, of one rank",
         "manifest", "log", "store calls"]
    ]  # fmt: skip
    for ranks in worlds:
        found = drive(ranks, saves=saves + 1, tensors=tensors)[1:]
        last = found[-1]
        gather, commit = _of(found, lambda s: s.gather_s), _of(found, lambda s: s.commit_s)
        rows.append(
            [f"{ranks:,}", f"{last.messages:,}", f"{last.report_bytes:,}", _ms(gather), _ms(commit),
             f"{1e6 * (gather + commit) / ranks:.0f} µs", f"{last.manifest_bytes:,} B", f"{last.log_bytes} B", _calls(last.calls)]
        )  # fmt: skip
        _tell(f"{ranks} ranks")
    return rows


def _of(saves: Sequence[Save], value: Callable[[Save], float]) -> float:
    return statistics.median(map(value, saves))


def resume_rows(versions: int, *, rounds: int) -> Rows:
    rows = [["store", "fold caches", "clock", "lowest to highest", "processor", "store calls"]]
    made = many_versions(versions)
    with tempfile.TemporaryDirectory(prefix="pawl-scale-") as folder:
        for name in ("memory", "folder", "sink"):
            with _opened(name, made, folder) as store:
                if store is not made:
                    copy_run(made, store)
                for caches in (True, False):
                    found = [resume(store, caches=caches) for _ in range(rounds + 1)][1:]
                    if any(one.version != versions for one in found):
                        raise SystemExit(f"not the newest version was chosen: {found}")
                    rows.append([name, "yes" if caches else "removed", *_resumed(found)])
            _tell(f"resume decision, {name}")
    return rows


def _resumed(found: Sequence[Resumed]) -> list[str]:
    seconds = [one.seconds for one in found]
    return [
        f"{statistics.median(seconds):.3f} s",
        f"{min(seconds):.3f} to {max(seconds):.3f}",
        f"{statistics.median(one.processor_s for one in found):.3f} s",
        _calls(found[-1].calls),
    ]


@contextmanager
def _opened(name: str, made: ObjectStore, folder: str) -> Iterator[ObjectStore]:
    if name == "memory":
        yield made
    elif name == "folder":
        yield StorageTarget(f"{folder}/store").open(create=True).store
    else:
        with sink(keep=True) as endpoint:
            yield sink_target(endpoint).open(create=True).store


def decision_pairs(rounds: int) -> list[float]:
    """Seconds of so many decisions which of 1,000 versions to resume, on an S3 server, with fold caches."""
    made = many_versions(_VERSIONS)
    with sink(keep=True) as endpoint:
        store = sink_target(endpoint).open(create=True).store
        copy_run(made, store)
        return [resume(store, caches=True).seconds for _ in range(rounds + 1)][1:]


def fold_rows(records: int, *, rounds: int) -> Rows:
    rows = [
        ["records", "fold cache", "clock", "processor", "most memory beside the store", "cache"]
    ]
    store, state, cache = long_log(records, cache_at=max(1, records - _BEHIND))
    for cached in (False, True):
        if cached:
            store.put(cache.key, cache.data)
        size = len(cache.data) if cached else 0
        walls, processors = [], []
        for _ in range(rounds):
            wall, processor = time.perf_counter(), time.process_time()
            folded = LogReader(store, RUN).fold()
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
            if folded != state:
                raise SystemExit("the fold is not the state that was written")
        rows.append(
            [f"{records:,}", "yes" if cached else "none", f"{statistics.median(walls):.2f} s",
             f"{statistics.median(processors):.2f} s", f"{_most_memory(store) / 2**20:.0f} MiB", f"{size:,} B"]
        )  # fmt: skip
        _tell(f"fold, {'with' if cached else 'without'} cache")
    return rows


def _most_memory(store: ObjectStore) -> int:
    """Bytes that a fold allocates at most; a pass of its own, since counting them slows it."""
    tracemalloc.start()
    try:
        LogReader(store, RUN).fold()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _calls(calls: Counter[str]) -> str:
    return ", ".join(f"{count:,} {verb}" for verb, count in sorted(calls.items()))


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    options = _options()
    parts = [
        table(rank_rows(options.ranks, saves=options.rounds, tensors=options.tensors)),
        table(resume_rows(options.versions, rounds=options.rounds)),
        table(fold_rows(options.records, rounds=options.rounds)),
    ]
    text = (
        f"{options.tensors} tensors over all ranks; medians of {options.rounds} rounds. {machine()}\n\n"
        + "\n\n".join(parts)
    )
    sys.stdout.write(f"{text}\n")
    if options.write is not None:
        page: Path = options.write
        page.write_text(replace_block(page.read_text(), "bench-scale", text))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--tensors", type=int, default=8, help="each sharded over all ranks")
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="page whose block is written anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
