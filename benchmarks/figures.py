"""Pawl's own figures: each round measures a baseline and the thing itself, one right after the other."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.job import Job, Made, compute, make_state, open_job, work
from benchmarks.ratios import Bar
from ray_workers.messages import ResumePoint
from ray_workers.restoring import RankRestore, ShardCache, read_manifest, restore_state
from ray_workers.store import keys
from ray_workers.store.fetch import PART_BYTES
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget

__all__ = ["FIGURES", "Figure", "Samples", "copy_seconds", "measure"]

Pairs = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    bar: Bar


FIGURES = {
    "stall": Figure(
        name="stall of a save ÷ a memcpy of the state, compute longer than the copy",
        bar=Bar(at_least=0.25, aim=0.05),
    ),
    "stall_bare": Figure(
        name="stall of a save ÷ a memcpy of the state, nothing to overlap with",
        bar=Bar(at_least=1.3, aim=1.05),
    ),
    "durable": Figure(
        name="time to durable ÷ a bare parallel upload", bar=Bar(at_least=1.2, aim=1.05)
    ),
    "cpu": Figure(
        name="CPU seconds per GiB saved ÷ the bare upload's", bar=Bar(at_least=1.6, aim=1.2)
    ),
    "speed": Figure(
        name="training speed kept during an upload ÷ during a bare upload",
        bar=Bar(at_least=0.97, aim=0.99, larger_is_better=True),
    ),
    "restore": Figure(
        name="verified restore ÷ a bare parallel download", bar=Bar(at_least=1.25, aim=1.05)
    ),
    "hot": Figure(
        name="verified restore from this node's memory ÷ a memcpy of the state",
        bar=Bar(at_least=2.0, aim=1.2),
    ),
    "memory": Figure(
        name="extra memory ÷ state, one staging buffer", bar=Bar(at_least=2.1, aim=1.05)
    ),
}


@dataclass(slots=True)
class Samples:
    """Pairs (value, baseline) by figure; and seconds, for orientation."""

    pairs: dict[str, Pairs] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, figure: str, value: float, baseline: float) -> None:
        self.pairs[figure].append((value, baseline))
        self.seconds[figure].append(value)
        self.seconds[f"{figure} baseline"].append(baseline)


def measure(
    target: StorageTarget,
    mib: int,
    rounds: int,
    staging: Path,
    *,
    tell: Callable[[str], None],
) -> Samples:
    """All figures on one target, in random order within each round."""
    made = make_state(mib)
    samples = Samples()
    spare = [torch.ones_like(tensor) for tensor in made.tensors]
    with open_job(target, made, staging) as job:
        store = target.open().store
        for _ in range(2):  # buffers are allocated and touched, the store's client is warm
            _save(job)
        left = staging / "left"
        left.mkdir()
        beside = int(compute(0.2) / 0.2 * (4 * copy_seconds(made.tensors, spare) + 0.05))
        taker = _Taker(
            beside=beside, job=job, store=store, made=made, spare=spare, samples=samples, left=left
        )
        figures = [
            taker.stall, taker.stall_bare, taker.durable, taker.speed, taker.restore, taker.hot
        ]  # fmt: skip
        for number in range(rounds):
            for take in random.sample(figures, len(figures)):
                take()
            tell(f"{store.url}: round {number + 1} of {rounds}")
        shutil.rmtree(left)
        staged = sum(path.stat().st_size for path in staging.glob("pawl-*"))
        samples.pairs["memory"] = [(float(staged), float(made.nbytes))] * rounds
    return samples


def copy_seconds(tensors: list[torch.Tensor], spare: list[torch.Tensor]) -> float:
    """One memcpy of the whole state into memory that was touched before."""
    began = time.perf_counter()
    for source, target in zip(tensors, spare, strict=True):
        target.copy_(source)
    return time.perf_counter() - began


def _save(job: Job) -> None:
    job.save()
    job.step()
    job.wait()


@dataclass(slots=True, kw_only=True)
class _Taker:
    job: Job
    store: ObjectStore
    made: Made
    spare: list[torch.Tensor]
    samples: Samples
    beside: int
    """Products that take longer than a copy of the state."""
    left: Path
    """Where a worker that died left its memory."""

    def stall(self) -> None:
        memcpy = copy_seconds(self.made.tensors, self.spare)
        stood = self.job.save()
        work(self.beside)
        stood += self.job.step()
        self.job.wait()
        self.samples.add("stall", stood, memcpy)

    def stall_bare(self) -> None:
        memcpy = copy_seconds(self.made.tensors, self.spare)
        stood = self.job.save() + self.job.step()
        self.job.wait()
        self.samples.add("stall_bare", stood, memcpy)

    def durable(self) -> None:
        bare = _timed(self._bare_upload)
        saved = _timed(lambda: _save(self.job))
        self.samples.add("durable", saved[0], bare[0])
        self.samples.add(
            "cpu", saved[1] * 2**30 / self.made.nbytes, bare[1] * 2**30 / self.made.nbytes
        )

    def speed(self) -> None:
        idle = compute(0.2) / 0.2
        bare = _products_during(self._bare_upload) / idle
        began = self.job.save()
        self.job.step()
        kept = _products_during(self.job.wait) / idle
        self.samples.add("speed", kept, bare)
        self.samples.seconds["advance"].append(began)

    def restore(self) -> None:
        point = self.job.newest()
        manifest = read_manifest(self.store, point)
        bare = _timed(lambda: self._bare_download(manifest.shards[0].key, manifest.shards[0].bytes))
        whole = _timed(lambda: self._restore(point, ShardCache(self.store)))
        self.samples.add("restore", whole[0], bare[0])

    def hot(self) -> None:
        point = self.job.newest()
        cache = ShardCache(self.store, self.job.left_behind(self.left))
        memcpy = copy_seconds(self.made.tensors, self.spare)
        whole = _timed(lambda: self._restore(point, cache))
        if cache.hot is None or cache.hot.bytes_found < self.made.nbytes:
            raise RuntimeError("The restore did not come from memory alone.")
        self.samples.add("hot", whole[0], memcpy)

    def _restore(self, point: ResumePoint, cache: ShardCache) -> None:
        """As a session does it."""
        manifest = read_manifest(self.store, point)
        rank = RankRestore(rank=0, world_size=1, manifest=manifest)
        restore_state(self.made.parts, manifest, cache, rank)

    def _bare_upload(self) -> None:
        self.store.put(keys.new_shard_key("bench-bare", 1), self._flat())

    def _bare_download(self, key: str, size: int) -> None:
        target = self._flat()[:size]
        with ThreadPoolExecutor(4) as pool:
            reads = [
                pool.submit(self.store.read_into, key, begin, target[begin : begin + PART_BYTES])
                for begin in range(0, len(target), PART_BYTES)
            ]
        for read in reads:
            read.result()

    def _flat(self) -> memoryview:
        """One piece of memory as large as the state, touched before."""
        global _flat_memory  # noqa: PLW0603 - one for all rounds, so that nobody pays for its pages
        size = self.made.nbytes + (1 << 20)
        if _flat_memory is None or len(_flat_memory) != size:
            _flat_memory = memoryview(bytearray(os.urandom(4096) * (size // 4096 + 1)))[:size]
        return _flat_memory


def _products_during(work: Callable[[], None]) -> float:
    """Products a second while `work` runs beside."""
    with ThreadPoolExecutor(1) as pool:
        began = time.perf_counter()
        running = pool.submit(work)
        done = 0
        while not running.done():
            done += compute(0.01)
        seconds = time.perf_counter() - began
        running.result()
    return done / seconds


_flat_memory: memoryview | None = None


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of this process."""
    cpu, began = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - began, time.process_time() - cpu
