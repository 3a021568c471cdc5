"""How long a search over 100,000 versions takes: `python -m benchmarks.registry_query`.

A hundred runs of a thousand versions each lie in a folder; each repetition reads all of the registry and answers one
condition, as `pawl search --stale` does once its libraries are loaded.
"""

from __future__ import annotations

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


def measure(store: ObjectStore) -> tuple[list[float], list[float]]:
    """Seconds of each reading, and of each answer."""
    reads, answers = [], []
    for _ in range(TIMES):
        begin = time.perf_counter()
        table = read_registry(store)
        middle = time.perf_counter()
        found = search(table, CONDITION, order="metrics.loss", limit=100)
        end = time.perf_counter()
        if (table.num_rows, found.num_rows) != (RUNS * VERSIONS, 100):
            raise SystemExit(f"{table.num_rows} rows, {found.num_rows} found: not what was written")
        reads.append(middle - begin)
        answers.append(end - middle)
    return reads, answers


def told(what: str, seconds: list[float]) -> str:
    return f"{what}: median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        root = open_root(folder, create=True)
        fill(root.store)
        reading, answering = measure(root.store)
    both = [a + b for a, b in zip(reading, answering, strict=True)]
    sys.stdout.write(f"{RUNS * VERSIONS} versions in {RUNS} files, {TIMES} repetitions\n")
    for line in (told("read", reading), told("answer", answering), told("both", both)):
        sys.stdout.write(f"{line}\n")
