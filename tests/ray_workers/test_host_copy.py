import threading

import numpy as np
import pytest

from ray_workers.host_copy import CopySegment, HostCopy, copy_now, copy_pool

MIB = 1 << 20


@pytest.fixture
def pool():
    with copy_pool() as pool:
        yield pool


def segment(target, source):
    assert target.nbytes == source.nbytes
    return CopySegment(target.ctypes.data, source.ctypes.data, source.nbytes)


@pytest.mark.parametrize("sizes", [[1], [3 * MIB + 5, 7, 40 * MIB + 1], [16 * MIB, 16 * MIB]])
def test_every_byte_of_every_segment_arrives(pool, sizes):
    sources = [np.random.default_rng(size).integers(0, 256, size, np.uint8) for size in sizes]
    targets = [np.zeros_like(source) for source in sources]

    def copy_done():
        return all(np.array_equal(t, s) for t, s in zip(targets, sources, strict=True))

    calls = []
    copy = HostCopy(
        map(segment, targets, sources), pool, on_copied=lambda: calls.append(copy_done())
    )

    copy.join()
    copy.join()
    assert calls == [True]
    assert copy.done


def test_nothing_to_copy_is_done_at_once(pool):
    calls = []
    assert HostCopy([], pool, on_copied=lambda: calls.append(1)).done
    assert calls == [1]


def test_whoever_waits_helps(pool):
    busy = threading.Event()
    for _ in range(4):
        pool.submit(busy.wait, 60)  # no thread of the pool is free
    source = np.arange(MIB, dtype=np.uint8)
    target = np.zeros_like(source)
    HostCopy([segment(target, source)], pool).join()
    busy.set()
    assert np.array_equal(target, source)


def test_memory_is_kept_until_the_copy_is_done(pool):
    kept = object()
    held = []
    copy = HostCopy([], pool, on_copied=lambda: held.append(True), keep=kept)
    assert copy._keep is None
    busy = threading.Event()
    for _ in range(4):
        pool.submit(busy.wait, 60)
    source, target = np.ones(9, np.uint8), np.zeros(9, np.uint8)
    copy = HostCopy([segment(target, source)], pool, keep=kept)
    assert copy._keep is kept
    copy.join()
    busy.set()
    assert copy._keep is None


def test_a_failing_callback_does_not_leave_a_waiter_behind(pool):
    def fail():
        raise ValueError("no")

    source, target = np.ones(9, np.uint8), np.zeros(9, np.uint8)
    busy = threading.Event()
    for _ in range(4):
        pool.submit(busy.wait, 60)
    with pytest.raises(ValueError, match="no"):
        HostCopy([segment(target, source)], pool, on_copied=fail).join()
    busy.set()


def test_a_small_copy_here_and_now():
    source, target = np.arange(100, dtype=np.uint8), np.zeros(100, np.uint8)
    copy_now(segment(target, source))
    assert np.array_equal(target, source)
