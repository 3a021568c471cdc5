"""How long a search over 100,000 versions takes: `python -m benchmarks.registry_query`.

A hundred runs of a thousand versions each lie in a folder; each repetition reads all of the registry and answers one
condition, as `pawl search --stale` does once its libraries are loaded. Processor time says more than the clock where other
work runs beside it, so both are told, with the load.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time

from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import open_root
from ray_workers.store.registry import encode, read_registry, registry_key
from ray_workers.store.registry_search import search
from tests.support.registry_rows import synthetic_rows

RUNS, VERSIONS, TIMES = 100, 1000, 9
CONDITION = "metrics.loss < 0.2 and config.lr >= 1e-3 and config.model.layers = 2"


def fill(store: ObjectStore) -> None:
    for index in range(RUNS):
        run = f"run-{index:03d}"
        store.put(registry_key(run), encode(synthetic_rows(run, VERSIONS), run_id="x", slot=1))


Times = dict[str, list[float]]


def measure(store: ObjectStore) -> Times:
    """Seconds of each repetition, by what was done and by which clock."""
    seconds: Times = {}
    for _ in range(TIMES):
        marks = [_clocks()]
        table = read_registry(store)
        marks.append(_clocks())
        found = search(table, CONDITION, order="metrics.loss", limit=100)
        marks.append(_clocks())
        if (table.num_rows, found.num_rows) != (RUNS * VERSIONS, 100):
            raise SystemExit(f"{table.num_rows} rows, {found.num_rows} found: not what was written")
        for what, first, last in (("read", 0, 1), ("answer", 1, 2), ("both", 0, 2)):
            for name, begin, end in zip(
                ("clock", "processor"), marks[first], marks[last], strict=True
            ):
                seconds.setdefault(f"{what}, {name}", []).append(end - begin)
    return seconds


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def told(what: str, seconds: list[float]) -> str:
    return f"{what}: median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        root = open_root(folder, create=True)
        fill(root.store)
        measured = measure(root.store)
    load = os.getloadavg()[0]
    sys.stdout.write(
        f"{RUNS * VERSIONS} versions in {RUNS} files, {TIMES} repetitions, {os.cpu_count()} cores, load {load:.1f}\n"
    )
    for what, seconds in measured.items():
        sys.stdout.write(f"{told(what, seconds)}\n")
