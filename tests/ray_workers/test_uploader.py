import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ray_workers.messages import RankState, StagedPart, StagedShard
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import StoreRefusedError, StoreUnavailableError, UploadFailedError
from ray_workers.store.keys import DataKey, data_fence
from ray_workers.store.manifest import Progress
from ray_workers.store.memory import MemoryStore
from ray_workers.store.shards import ShardEntry
from ray_workers.uploader import Uploader
from tests.support.faulty_store import Fault, FaultyStore, Hooked

CONTENT = b"shard bytes" * 100


def staged(folder):
    path = folder / "buffer"
    path.write_bytes(CONTENT + b"what the last save left behind")
    return StagedShard(
        rank=3, world_size=4, progress=Progress(step=7, epoch=0, finished=False), payload="state",
        path=str(path), parts=(StagedPart(begin=0, bytes=len(CONTENT), layout={}),),
        state=RankState(rank_plain=None), staged_s=0.0,
    )  # fmt: skip


def uploader(store, *, tries=3, pauses=None):
    return Uploader(store, "run", tries=tries, sleep=[].append if pauses is None else pauses.append)


def test_the_shard_is_stored_under_its_fence_with_its_digest(tmp_path):
    store = MemoryStore()
    report = uploader(store).upload(staged(tmp_path), 9)
    assert (report.entries[0].rank, report.entries[0].bytes, report.fence) == (3, len(CONTENT), 9)
    assert report.entries[0].digest == digest_of(CONTENT)
    assert data_fence(report.entries[0].key) == DataKey("run", 9)
    assert store.get(report.entries[0].key) == CONTENT


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.LOSE_RESPONSE])
def test_every_try_has_a_key_of_its_own(tmp_path, fault):
    store = FaultyStore(MemoryStore(), {1: fault, 2: fault})
    pauses: list[float] = []
    report = uploader(store, pauses=pauses).upload(staged(tmp_path), 9)
    tried = [call.key for call in store.calls if call.verb == "put"]
    assert len(set(tried)) == 3
    assert report.entries[0].key == tried[-1]
    assert pauses == [0.2, 0.4]


def test_when_no_try_succeeds_it_says_how_often_it_tried(tmp_path):
    pauses: list[float] = []
    store = FaultyStore(MemoryStore(), lambda _: Fault.UNAVAILABLE)
    with pytest.raises(UploadFailedError, match="in 8 tries"):
        uploader(store, tries=8, pauses=pauses).upload(staged(tmp_path), 9)
    assert len(store.calls) == 8
    assert len(pauses) == 7
    assert max(pauses) == 10.0


def test_what_needs_a_person_is_not_tried_again(tmp_path):
    class Full(MemoryStore):
        puts = 0

        def put(self, key, data):
            self.puts += 1
            raise StoreRefusedError(f"No space left on device for {len(data)} bytes of {key}.")

    store = Full()
    with pytest.raises(StoreRefusedError, match="No space left"):
        uploader(store).upload(staged(tmp_path), 9)
    assert store.puts == 1


def test_a_client_whose_error_still_holds_the_bytes_hides_no_reason(tmp_path):
    """As a client does whose answer never came: the view lives in the frames of its exception."""

    class Holding(MemoryStore):
        def put(self, key, data):
            part = memoryview(data)[:4]
            raise StoreUnavailableError(f"No answer for {key}.", part=part)

    with pytest.raises(UploadFailedError, match="No answer"):
        uploader(Holding(), tries=2).upload(staged(tmp_path), 9)


def test_no_tries_at_all_is_an_error_and_not_a_success(tmp_path):
    with pytest.raises(UploadFailedError, match="at least 1"):
        uploader(MemoryStore(), tries=0).upload(staged(tmp_path), 9)


def in_two_parts(folder, known):
    """CONTENT as a part that stands still, behind one that changes."""
    one = staged(folder)
    path = folder / "buffer"
    path.write_bytes(b"moving" + CONTENT)
    parts = (
        StagedPart(begin=0, bytes=6, layout={}),
        StagedPart(begin=6, bytes=len(CONTENT), layout={}, still=True),
    )
    return replace(one, path=str(path), parts=parts, known=known)


def known_as(digest):
    key = "runs/run/shards/00000000000000000007/0123456789abcdef0123456789abcdef.safetensors"
    return ShardEntry(rank=3, key=key, bytes=len(CONTENT), digest=digest)


def test_what_is_stored_already_is_named_and_not_sent(tmp_path):
    store, known = MemoryStore(), known_as(digest_of(CONTENT))
    report = uploader(store).upload(in_two_parts(tmp_path, (known,)), 9)
    assert report.entries[1] == known
    assert report.reused == {known.key}
    assert [info.key for info in store.list("")] == [report.entries[0].key]
    assert report.bytes_sent == 6
    assert store.get(report.entries[0].key) == b"moving"


@pytest.mark.parametrize("known", [(), (known_as(digest_of(b"as long, and other bytes")),)])
def test_what_is_not_stored_yet_is_sent(tmp_path, known):
    store = MemoryStore()
    report = uploader(store).upload(in_two_parts(tmp_path, known), 9)
    assert report.reused == set()
    assert report.entries[1].digest == digest_of(CONTENT)
    assert store.get(report.entries[1].key) == CONTENT
    assert report.bytes_sent == 6 + len(CONTENT)


def test_four_ranks_upload_at_once_and_the_others_wait(tmp_path):
    under_way, most, full = [0], list[int](), threading.Event()
    lock = threading.Lock()

    def slowly(verb: str, key: str) -> None:
        with lock:
            under_way[0] += 1
            most.append(under_way[0])
            if under_way[0] >= 4:
                full.set()
        assert full.wait(60)
        time.sleep(0.02)  # for a fifth one to come in, were it let
        with lock:
            under_way[0] -= 1

    sending = uploader(Hooked(MemoryStore(), slowly))
    shard = staged(tmp_path)
    with ThreadPoolExecutor(8) as ranks:
        reports = list(ranks.map(lambda _: sending.upload(shard, 9), range(8)))
    assert len({report.entries[0].key for report in reports}) == 8
    assert max(most) == 4
