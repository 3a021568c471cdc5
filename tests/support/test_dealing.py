"""Long tests begin, a share in each process; nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.dealing import deal


def is_long(test: int) -> bool:
    return test % 5 == 0


def test_each_stretch_begins_with_its_share_of_the_long_ones() -> None:
    assert deal(range(12), 3, is_long) == [0, 1, 2, 3, 5, 4, 6, 7, 10, 8, 9, 11]


@given(st.lists(st.integers(0, 100)), st.integers(1, 5))
def test_it_is_the_same_tests(tests: list[int], hands: int) -> None:
    dealt = deal(tests, hands, is_long)
    assert sorted(dealt) == sorted(tests)
    assert [t for t in dealt if not is_long(t)] == [t for t in tests if not is_long(t)]


def test_one_process_takes_them_as_they_come_after_the_long_ones() -> None:
    assert deal([1, 5, 2], 1, is_long) == [5, 1, 2]
