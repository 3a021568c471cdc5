import pytest

from ray_workers.messages import RankState, StagedShard
from ray_workers.store.checksum import digest_of
from ray_workers.store.errors import StoreRefusedError, StoreUnavailableError, UploadFailedError
from ray_workers.store.keys import DataKey, data_fence
from ray_workers.store.manifest import Progress
from ray_workers.store.memory import MemoryStore
from ray_workers.uploader import Uploader
from tests.support.faulty_store import Fault, FaultyStore

CONTENT = b"shard bytes" * 100


def staged(folder):
    path = folder / "buffer"
    path.write_bytes(CONTENT + b"what the last save left behind")
    return StagedShard(
        rank=3, world_size=4, progress=Progress(step=7, epoch=0, finished=False), payload="state",
        path=str(path), bytes=len(CONTENT), state=RankState(layout={}, rank_plain=None), staged_s=0.0,
    )  # fmt: skip


def uploader(store, *, tries=3, pauses=None):
    return Uploader(store, "run", tries=tries, sleep=[].append if pauses is None else pauses.append)


def test_the_shard_is_stored_under_its_fence_with_its_digest(tmp_path):
    store = MemoryStore()
    report = uploader(store).upload(staged(tmp_path), 9)
    assert (report.entry.rank, report.entry.bytes, report.fence) == (3, len(CONTENT), 9)
    assert report.entry.digest == digest_of(CONTENT)
    assert data_fence(report.entry.key) == DataKey("run", 9)
    assert store.get(report.entry.key) == CONTENT


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.LOSE_RESPONSE])
def test_every_try_has_a_key_of_its_own(tmp_path, fault):
    store = FaultyStore(MemoryStore(), {1: fault, 2: fault})
    pauses: list[float] = []
    report = uploader(store, pauses=pauses).upload(staged(tmp_path), 9)
    tried = [call.key for call in store.calls if call.verb == "put"]
    assert len(set(tried)) == 3
    assert report.entry.key == tried[-1]
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
