"""`python -m benchmarks.node_restore`: ranks of one node that restore the same replicated state at once.

In each round they do it twice, in turns first: every rank reads all of it from an S3 server, and one rank reads each shard
for all of them. Measured are the seconds until the last rank has its state, the processor time of all ranks together, and
what was asked of the server. The server is in Python on the same cores, without latency: on a real network the bytes weigh more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.page import machine, replace_block, table
from benchmarks.ratios import summarise
from benchmarks.sink import sink
from benchmarks.targets import sink_target
from ray_workers.node_shards import replicated_shards
from ray_workers.restoring import ShardCache
from ray_workers.shard_io import plan_shard, write_shard
from ray_workers.staging_files import StagingFolder
from ray_workers.store.checksum import digest_of
from ray_workers.store.keys import new_shard_key
from ray_workers.store.layout import merge_layouts
from ray_workers.store.manifest import Manifest, Progress
from ray_workers.store.opening import StorageTarget
from ray_workers.store.shards import ShardEntry
from ray_workers.tensor_filling import fill_tensors

_RUN, _FENCE = "d" * 32, 1
_TENSOR_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """By all ranks of one restore."""

    seconds: float
    processor_s: float
    asked_bytes: int


_MEASURES: dict[str, Callable[[Taken], float]] = {
    "seconds until the last rank has it": lambda one: one.seconds,
    "processor time of all ranks": lambda one: one.processor_s,
    "bytes asked of the server": lambda one: one.asked_bytes,
}


def template(mib: int, ranks: int, rank: int | None = None) -> dict[str, torch.Tensor]:
    """The whole state, or a rank's part of what is stored."""
    count = max(ranks, mib * 2**20 // _TENSOR_BYTES)
    wanted = range(count) if rank is None else range(rank, count, ranks)
    return {f"shared/w{n}": torch.full((_TENSOR_BYTES // 4,), float(n)) for n in wanted}


def stored(target: StorageTarget, mib: int, ranks: int) -> Manifest:
    """A version of as many shards as ranks, each with an equal part of the state."""
    store, entries, layouts = target.open(create=True).store, [], []
    for rank in range(ranks):
        tensors = template(mib, ranks, rank)
        plan = plan_shard(tensors, rank=0)
        shard = bytearray(plan.total)
        write_shard(plan, tensors, memoryview(shard))
        entry = ShardEntry(
            rank=rank,
            key=new_shard_key("node", _FENCE),
            bytes=len(shard),
            digest=digest_of(shard),
        )
        store.put(entry.key, shard)
        entries.append(entry)
        layouts.append(plan.layout())
    return Manifest(
        payload="state", run_id=_RUN, fence=_FENCE, write_id="w", created_at="2026-01-01T00:00:00Z", parent=None,
        progress=Progress(step=1, epoch=0, finished=False), world_size=ranks, shards=tuple(entries), plain=None,
        rank_plain=(None,) * ranks, tensors=merge_layouts(layouts),
    )  # fmt: skip


def restore_one(
    job: tuple[StorageTarget, bytes, Path, int, int, int], barrier: Any, told: Any, *, shared: bool
) -> None:
    """One rank in a process of its own."""
    target, body, folder, mib, rank, ranks = job
    torch.set_num_threads(1)
    manifest = Manifest.from_bytes(body)
    state = template(mib, ranks)
    staging = StagingFolder(folder=folder, run_id=_RUN, fence=_FENCE)
    store = target.open().store
    barrier.wait()
    began, before = time.perf_counter(), time.process_time()
    cache = ShardCache(store, staging)
    if shared:
        cache.share(replicated_shards(manifest, state))
    fill_tensors(state, manifest, cache.fill, prefixes=("shared",), begin=rank / ranks)
    seconds, processor_s = time.perf_counter() - began, time.process_time() - before
    barrier.wait()
    if any(float(tensor[0]) != float(path[len("shared/w") :]) for path, tensor in state.items()):
        raise SystemExit(f"rank {rank} restored something else")
    whole = sum(entry.bytes for entry in manifest.shards)
    taken = 0 if cache.node is None else cache.node.bytes_taken
    told.put((seconds, processor_s, whole - taken))


def restored(
    target: StorageTarget,
    manifest: Manifest,
    folder: Path,
    options: argparse.Namespace,
    *,
    shared: bool,
) -> Taken:
    """All ranks at once."""
    spawn = multiprocessing.get_context("spawn")
    barrier, told = spawn.Barrier(options.ranks), spawn.Queue()
    ranks = [
        spawn.Process(
            target=restore_one,
            args=(
                (target, manifest.to_bytes(), folder, options.mib, rank, options.ranks),
                barrier,
                told,
            ),
            kwargs={"shared": shared},
        )
        for rank in range(options.ranks)
    ]
    for rank in ranks:
        rank.start()
    found = [told.get(timeout=600) for _ in ranks]
    for rank in ranks:
        rank.join()
    for path in folder.iterdir():
        path.unlink()
    seconds, processor_s, asked = zip(*found, strict=True)
    return Taken(seconds=max(seconds), processor_s=sum(processor_s), asked_bytes=sum(asked))


def page(rounds: list[tuple[Taken, Taken]], options: argparse.Namespace) -> str:
    """The medians of both ways, and their ratio with its interval."""
    rows = [["", "shared ÷ each its own, median", "95 % interval", "pairs"]]
    for name, value in _MEASURES.items():
        ratio = summarise([(value(shared), value(own)) for own, shared in rounds])
        rows.append(
            [name, f"{ratio.median:.3g}", f"{ratio.low:.3g} to {ratio.high:.3g}", str(ratio.pairs)]
        )
    heading = f"{options.ranks} ranks of one node, {options.mib} MiB of replicated state."
    return f"{heading} {machine()}\n\n{table(rows)}"


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="pawl-node-restore-", dir=options.staging))
    rounds = []
    try:
        with sink(keep=True) as endpoint:
            target = sink_target(endpoint)
            manifest = stored(target, options.mib, options.ranks)
            for number in range(options.rounds):
                order = (False, True) if number % 2 else (True, False)
                took = {
                    way: restored(target, manifest, folder, options, shared=way) for way in order
                }
                rounds.append((took[False], took[True]))
                print(took[False], took[True], flush=True)  # noqa: T201 - a command
    finally:
        shutil.rmtree(folder)
    text = page(rounds, options)
    print(text)  # noqa: T201
    if options.write is not None:
        place: Path = options.write
        place.write_text(replace_block(place.read_text(), "bench-node", text))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node_restore", description=__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="on the node")
    parser.add_argument("--mib", type=int, default=256, help="size of the state")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved pairs")
    parser.add_argument("--staging", default="/dev/shm", help="where shards lie for all ranks")  # noqa: S108
    parser.add_argument("--write", type=Path, help="page whose block is written anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
