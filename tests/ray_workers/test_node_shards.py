"""What every rank of a node needs is read from storage once: with ranks side by side, dead ones, and bytes that changed."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ray_workers import coming_back, node_shards
from ray_workers.node_shards import NodeShards, replicated_shards
from ray_workers.restoring import ShardCache
from ray_workers.staging_files import StagingFolder
from ray_workers.state_tree import split
from ray_workers.store import shards as shards_module
from ray_workers.store.clock import epoch_seconds
from ray_workers.store.errors import DigestMismatchError, StoreUnavailableError
from ray_workers.store.memory import MemoryStore
from ray_workers.store.shards import ShardEntry
from ray_workers.tensor_filling import fill_tensors
from ray_workers.training_state import TrainingParts, capture
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.versions import MemoryVersion, make_version, write_rank

RUN, FENCE, SHARDS = "c" * 32, 5, 6
NUMBERS = 400_000  # 1.6 MB: above what is better read whole


def weights() -> dict[str, torch.Tensor]:
    return {
        f"shared/w{rank}": torch.full((NUMBERS,), float(rank + 1), dtype=torch.float32)
        for rank in range(SHARDS)
    }


@pytest.fixture(scope="module")
def version() -> MemoryVersion:
    return make_version([write_rank({path: x}, rank=0) for path, x in weights().items()])


@pytest.fixture
def store(version: MemoryVersion) -> FaultyStore:
    inner = MemoryStore()
    for key, data in version.shards.items():
        inner.put(key, data)
    return FaultyStore(inner)


def folder(tmp_path: Path, fence: int = FENCE, limit_bytes: int | None = None) -> StagingFolder:
    return StagingFolder(folder=tmp_path, run_id=RUN, fence=fence, limit_bytes=limit_bytes)


def reads(store: FaultyStore) -> Counter[str]:
    return Counter(call.key for call in store.calls if call.verb in ("get", "read_into"))


def restore(
    version: MemoryVersion, store: Any, staging: StagingFolder | None, here: int = 0, ranks: int = 1
) -> ShardCache:
    """As one rank; raises unless all its weights are what they were."""
    template = {path: torch.zeros_like(tensor) for path, tensor in weights().items()}
    cache = ShardCache(store, staging)
    cache.share(replicated_shards(version.manifest, template))
    fill_tensors(
        template, version.manifest, cache.fill, prefixes=("shared",), begin=here / max(ranks, 1)
    )
    for path, tensor in weights().items():
        assert torch.equal(template[path], tensor)
    return cache


def side_by_side(
    version: MemoryVersion, store: Any, staging: StagingFolder, ranks: int
) -> list[Any]:
    with ThreadPoolExecutor(ranks) as pool:
        running = [
            pool.submit(restore, version, store, staging, here, ranks) for here in range(ranks)
        ]
        return [one.result(60) for one in running]


def once(version: MemoryVersion) -> Counter[str]:
    return Counter({entry.key: 1 for entry in version.manifest.shards})


@pytest.mark.parametrize("ranges", [False, True])
def test_ranks_side_by_side_read_each_shard_once(version, store, tmp_path, monkeypatch, ranges):
    if ranges:  # as of a larger one, straight into the file
        monkeypatch.setattr(shards_module, "PART_BYTES", 1_000_000)
    caches = side_by_side(version, store, folder(tmp_path), ranks=4)
    assert reads(store) == once(version)
    whole = sum(entry.bytes for entry in version.manifest.shards)
    assert sum(cache.node.bytes_taken for cache in caches) == 3 * whole
    assert not list(tmp_path.glob("*.part*"))
    # One that comes later takes all of it from there.
    restore(version, store, folder(tmp_path))
    assert reads(store) == once(version)


def test_without_a_folder_or_from_a_local_store_each_rank_reads_its_own(
    version, store, tmp_path, monkeypatch
):
    restore(version, store, None)
    monkeypatch.setattr(MemoryStore, "kind", "local")
    restore(version, store, folder(tmp_path))
    assert not list(tmp_path.iterdir())
    assert min(reads(store).values()) >= 2


@pytest.mark.parametrize("limit", [1000, None])
def test_without_room_each_rank_reads_its_own(version, store, tmp_path, monkeypatch, limit):
    if limit is None:
        usage = SimpleNamespace(free=1000)
        monkeypatch.setattr("ray_workers.staging_files.shutil.disk_usage", lambda _: usage)
    for _ in range(2):
        restore(version, store, folder(tmp_path, limit_bytes=limit))
    assert not list(tmp_path.iterdir())
    assert min(reads(store).values()) >= 2


def test_a_full_memory_is_no_failure(version, store, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ray_workers.node_shards.os.posix_fallocate", full)
    restore(version, store, folder(tmp_path))
    assert not list(tmp_path.iterdir())


def test_bytes_that_changed_in_memory_are_read_from_storage(version, store, tmp_path):
    restore(version, store, folder(tmp_path))
    for path in tmp_path.iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    restore(version, store, folder(tmp_path))
    assert min(reads(store).values()) >= 2


def first_part(version: MemoryVersion, staging: StagingFolder) -> tuple[ShardEntry, Path]:
    entry = version.manifest.shards[0]
    path = staging.shared_path(entry.digest)
    return entry, path.with_name(f"{path.name}.part")


def test_what_a_dead_rank_had_begun_is_read_by_another_one(version, store, tmp_path):
    _, part = first_part(version, folder(tmp_path))
    part.write_bytes(b"half of it")
    side_by_side(version, store, folder(tmp_path), ranks=3)
    assert not part.exists()
    assert reads(store) == once(version)


def test_a_rank_that_lives_and_does_not_come_to_an_end_is_not_waited_for_for_ever(
    version, store, tmp_path
):
    entry, part = first_part(version, folder(tmp_path))
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    shards = NodeShards(folder(tmp_path), store, {entry.key: entry}, patience_s=0.2)
    assert not shards.fill(entry, lambda _: [None])
    assert part.exists(), "a living rank's claim was taken from it"
    os.close(descriptor)


def test_ranks_wait_for_the_one_that_reads(version, store, tmp_path):
    entry, part = first_part(version, folder(tmp_path))
    path = part.with_suffix("")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    target = bytearray(4 * NUMBERS)

    def finish() -> None:
        time.sleep(0.3)
        os.write(descriptor, version.shards[entry.key])
        part.rename(path)

    writer = threading.Thread(target=finish)
    writer.start()
    shards = NodeShards(folder(tmp_path), store, {entry.key: entry}, patience_s=30)
    assert shards.fill(entry, lambda _: [memoryview(target)])
    writer.join()
    os.close(descriptor)
    assert not reads(store)
    assert bytes(target) == weights()["shared/w0"].numpy().tobytes()


def test_damage_in_storage_is_damage_for_every_rank_and_leaves_nothing(version, store, tmp_path):
    broken = version.manifest.shards[2]
    data = bytearray(version.shards[broken.key])
    data[-1] ^= 1
    store.delete(broken.key)
    store.put(broken.key, bytes(data))
    for _ in range(2):
        with pytest.raises(DigestMismatchError) as met:
            restore(version, store, folder(tmp_path))
        assert met.value.details["key"] == broken.key
    assert not list(tmp_path.glob("*.part*"))
    assert not folder(tmp_path).shared_path(broken.digest).exists()


def test_a_rank_that_failed_is_not_waited_for_while_its_error_lives(
    version, store, tmp_path, monkeypatch
):
    entry, _ = first_part(version, folder(tmp_path))
    store.delete(entry.key)
    store.put(entry.key, bytes(len(version.shards[entry.key])))
    beside, await_part = threading.Event(), node_shards._await

    def awaiting(*arguments):
        beside.set()
        await_part(*arguments)

    def once_the_other_waits(call):
        if call.key == entry.key:
            beside.wait(60)

    monkeypatch.setattr(node_shards, "_await", awaiting)
    held = FaultyStore(store, once_the_other_waits)

    def rank() -> bool:
        shards = NodeShards(folder(tmp_path), held, {entry.key: entry}, patience_s=30)
        return shards.fill(entry, lambda _: [None])

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(rank) for _ in range(2)]
        errors = [one.exception(60) for one in running]
    assert beside.is_set()
    assert [type(error) for error in errors] == [DigestMismatchError, DigestMismatchError]


def test_a_store_that_is_away_for_one_rank_leaves_the_shard_to_the_next(version, store, tmp_path):
    key = version.manifest.shards[0].key
    away = FaultyStore(store, lambda call: Fault.UNAVAILABLE if call.key == key else None)
    with pytest.raises(StoreUnavailableError):
        restore(version, away, folder(tmp_path))
    assert not list(tmp_path.glob("*.part*"))
    restore(version, store, folder(tmp_path))


class Part(torch.Tensor):
    """Stands for a part of a distributed tensor."""


def test_only_shards_of_what_all_ranks_hold_whole_are_shared(version, monkeypatch):
    monkeypatch.setattr(node_shards, "DTensor", Part)
    template: dict[str, torch.Tensor] = weights()
    assert set(replicated_shards(version.manifest, template)) == set(version.shards)
    template["shared/w1"] = template["shared/w1"].as_subclass(Part)
    shared = replicated_shards(version.manifest, template)
    assert set(version.shards) - set(shared) == {version.manifest.shards[1].key}


def test_files_go_with_the_restore_the_attempt_or_the_next_one(version, store, tmp_path):
    staging, later = folder(tmp_path), folder(tmp_path, fence=FENCE + 1)
    gone: list[Callable[[], object]] = [
        staging.remove_shared, staging.release, later.remove_leftovers,
        lambda: later.remove_abandoned(0.0, epoch_seconds() + 60),
    ]  # fmt: skip
    for remove in gone:
        restore(version, store, staging)
        (tmp_path / f"{staging.shared_path('f' * 32).name}.part.7.9").touch()
        staging.release(0)
        later.remove_shared()
        assert len(list(tmp_path.iterdir())) == SHARDS + 1
        remove()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("place", "files"), [((0, 1), 0), ((0, 2), 1), ((1, 2), 1)])
def test_a_rank_shares_unless_it_is_alone_on_its_node(tmp_path, monkeypatch, place, files):
    """Through the whole restore of a rank, from the context that training gives to what lies there when all have it."""
    model = torch.nn.Linear(1000, 1000)
    state = split(capture(TrainingParts(model=model)), prefix="shared")
    made = make_version([write_rank(state.tensors, rank=0)], plain=state.plain)
    stored = MemoryStore()
    for key, data in made.shards.items():
        stored.put(key, data)
    point: Any = SimpleNamespace(run="r", name=SimpleNamespace(number=1))
    monkeypatch.setattr(coming_back, "read_manifest", lambda *_: made.manifest)
    context: Any = SimpleNamespace(
        staging=folder(tmp_path), place=place, rank=0, world_size=1, drill=False, on_changed_workers="refuse",
        storage=SimpleNamespace(open=lambda: SimpleNamespace(store=stored)),
    )  # fmt: skip
    monkeypatch.setattr(coming_back, "warn_about_changes", lambda _: None)
    there: list[int] = []
    channel: Any = SimpleNamespace(any_failed=lambda _: there.append(len(list(tmp_path.iterdir()))))
    fresh = torch.nn.Linear(1000, 1000)
    coming_back.come_back(context, channel, TrainingParts(model=fresh), point)
    assert torch.equal(fresh.weight, model.weight)
    assert there == [files]
    assert not list(tmp_path.iterdir())
