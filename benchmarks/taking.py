"""Pawl's own figures: each round measures a baseline and the thing itself, one right after the other."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.figures import Samples, copy_seconds
from benchmarks.job import Job, Made, compute, make_state, open_job, work
from benchmarks.ranks import Ranks
from ray_workers.messages import ResumePoint
from ray_workers.restoring import RankRestore, ShardCache, read_manifest, restore_state
from ray_workers.store import keys
from ray_workers.store.fetch import PART_BYTES
from ray_workers.store.object_store import ObjectStore
from ray_workers.store.opening import StorageTarget
from ray_workers.store.shards import ShardEntry

__all__ = ["Places", "measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where one measurement stores what it makes."""

    name: str
    target: StorageTarget
    kept: StorageTarget | None = None
    """Where versions lie that are restored, when `target` discards what it gets."""
    staging: Path
    """Folder for staging buffers."""


def measure(ranks: Ranks, places: Places, mib: int, rounds: int) -> Samples:
    """All figures on one target, in random order within each round; on each rank at the same time.

    Args:
        ranks: this one, and how many there are. Of their values the worst counts.
        places: the target.
        mib: size of the state of all ranks together.
        rounds: pairs of each figure.
    """
    made = make_state(mib, ranks)
    spare = [torch.ones_like(tensor) for tensor in made.tensors]
    samples, flat = Samples(), touched(made.nbytes + (1 << 20))
    scene = _Scene(ranks=ranks, made=made, spare=spare, flat=flat, samples=samples)
    before = anonymous_bytes()
    staging = places.staging
    with open_job(places.target, made, staging, ranks) as job:
        saves = SaveFigures(scene, job, places.target.open().store)
        for _ in range(2):  # buffers are allocated and touched, the store's client is warm
            save(job)
        for number in range(rounds):
            scene.memory(staging, before)
            _take_all(saves.figures)
            job.tidy()
            _tell(ranks, f"{places.name}: saves, round {number + 1} of {rounds}")
    kept = places.kept or places.target
    with open_job(kept, made, staging, ranks) as job:
        restores = RestoreFigures(scene, job, kept.open().store, staging / "left")
        save(job)
        for number in range(rounds):
            _take_all(restores.figures)
            _tell(ranks, f"{places.name}: restores, round {number + 1} of {rounds}")
        shutil.rmtree(staging / "left", ignore_errors=True)
    return samples


def _take_all(figures: Sequence[Callable[[], None]]) -> None:
    for take in random.sample(figures, len(figures)):
        take()


def _tell(ranks: Ranks, text: str) -> None:
    if ranks.leads:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a long command


def save(job: Job) -> None:
    """From the begin of a save until it is a version."""
    job.save()
    job.step()
    job.wait()


def touched(size: int) -> memoryview:
    """One piece of memory whose pages are there."""
    return memoryview(bytearray(os.urandom(4096) * (size // 4096 + 1)))[:size]


def anonymous_bytes() -> int:
    """Memory of this process that is in no file; proportional, as the kernel counts it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("Pss_Anon:"))
    return 1024 * int(kib)


@dataclass(slots=True, kw_only=True)
class _Scene:
    """What all figures share."""

    ranks: Ranks
    made: Made
    spare: list[torch.Tensor]
    flat: memoryview
    """As large as this rank's state, touched before."""
    samples: Samples

    def memcpy(self) -> float:
        return copy_seconds(self.made.tensors, self.spare)

    def add(self, figure: str, value: float, baseline: float, *, smallest: bool = False) -> None:
        """The worst rank's of both."""
        self.samples.add(figure, *self.ranks.worst((value, baseline), smallest=smallest))

    def timed(self, work: Callable[[], object]) -> tuple[float, float]:
        """Wall and processor seconds of this process, begun by all ranks together."""
        self.ranks.together()
        cpu, began = time.process_time(), time.perf_counter()
        work()
        return time.perf_counter() - began, time.process_time() - cpu

    def memory(self, staging: Path, before: int) -> None:
        """Beside the state itself: this process's own, and the staging files of all ranks."""
        staged = sum(path.stat().st_blocks * 512 for path in staging.iterdir() if path.is_file())
        own = max(0, anonymous_bytes() - before)
        self.add("memory", own + staged / self.ranks.world, float(self.made.nbytes))


class SaveFigures:
    """What a save costs, on one rank."""

    def __init__(self, scene: _Scene, job: Job, store: ObjectStore) -> None:
        self._scene = scene
        self._job = job
        self._store = store
        self._beside = int(compute(0.2) / 0.2 * (4 * scene.memcpy() + 0.05))
        """Products that take longer than a copy of the state."""

    @property
    def figures(self) -> Sequence[Callable[[], None]]:
        return self.stall, self.stall_bare, self.durable, self.speed

    def stall(self) -> None:
        memcpy = self._scene.memcpy()
        self._scene.ranks.together()
        stood = self._job.save()
        work(self._beside)
        stood += self._job.step()
        self._job.wait()
        self._scene.add("stall", stood, memcpy)

    def stall_bare(self) -> None:
        memcpy = self._scene.memcpy()
        self._scene.ranks.together()
        stood = self._job.save() + self._job.step()
        self._job.wait()
        self._scene.add("stall_bare", stood, memcpy)

    def durable(self) -> None:
        bare = self._scene.timed(self._bare_upload)
        saved = self._scene.timed(lambda: save(self._job))
        self._scene.add("durable", saved[0], bare[0])
        per_gib = 2**30 / self._scene.made.nbytes
        self._scene.add("cpu", saved[1] * per_gib, bare[1] * per_gib)

    def speed(self) -> None:
        idle = compute(0.2) / 0.2
        self._scene.ranks.together()
        bare = _products_during(self._bare_upload) / idle
        self._scene.ranks.together()
        began = self._job.save()
        self._job.step()
        kept = _products_during(self._job.wait) / idle
        self._scene.add("speed", kept, bare, smallest=True)
        self._scene.samples.seconds["advance"].append(began)

    def _bare_upload(self) -> None:
        key = keys.new_shard_key("bench-bare", 1)
        self._store.put(key, self._scene.flat)
        self._store.delete(key)


class RestoreFigures:
    """What coming back costs, on one rank."""

    def __init__(self, scene: _Scene, job: Job, store: ObjectStore, left: Path) -> None:
        self._scene = scene
        self._job = job
        self._store = store
        self._left = left
        """Where a worker that died left its memory."""

    @property
    def figures(self) -> Sequence[Callable[[], None]]:
        """Memory that a dead worker left is tried with one rank alone."""
        return (self.restore,) if self._scene.ranks.world > 1 else (self.restore, self.hot)

    def restore(self) -> None:
        point = self._job.newest()
        manifest = read_manifest(self._store, point)
        own = next(shard for shard in manifest.shards if shard.rank == self._scene.ranks.rank)
        bare = self._scene.timed(lambda: self._bare_download(own))
        whole = self._scene.timed(lambda: self._restore(point, ShardCache(self._store)))
        self._scene.add("restore", whole[0], bare[0])

    def hot(self) -> None:
        point = self._job.newest()
        self._left.mkdir(exist_ok=True)
        cache = ShardCache(self._store, self._job.left_behind(self._left))
        memcpy = self._scene.memcpy()
        whole = self._scene.timed(lambda: self._restore(point, cache))
        if cache.hot is None or cache.hot.bytes_found < self._scene.made.nbytes:
            raise RuntimeError("The restore did not come from memory alone.")
        self._scene.add("hot", whole[0], memcpy)

    def _restore(self, point: ResumePoint, cache: ShardCache) -> None:
        """As a session does it."""
        manifest = read_manifest(self._store, point)
        ranks = self._scene.ranks
        rank = RankRestore(rank=ranks.rank, world_size=ranks.world, manifest=manifest)
        restore_state(self._scene.made.parts, manifest, cache, rank)

    def _bare_download(self, shard: ShardEntry) -> None:
        target = self._scene.flat[: shard.bytes]
        with ThreadPoolExecutor(4) as pool:
            reads = [
                pool.submit(
                    self._store.read_into, shard.key, begin, target[begin : begin + PART_BYTES]
                )
                for begin in range(0, len(target), PART_BYTES)
            ]
        for read in reads:
            read.result()


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
