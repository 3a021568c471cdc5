import threading

import pytest

from ray_workers.telling_again import telling_again


def test_it_is_told_at_once_and_again_until_it_is_over():
    told, often = list[None](), threading.Event()

    def tell():
        told.append(None)
        if len(told) == 3:
            often.set()

    with telling_again(tell, every_s=0.01):
        assert told
        assert often.wait(60)
    often.clear()
    told.clear()
    assert not often.wait(0.3)  # one may have been on its way, not three


def test_it_is_over_when_the_block_fails():
    told = threading.Event()

    def fail():
        with telling_again(told.set, every_s=0.3):
            told.clear()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not told.wait(0.6)
