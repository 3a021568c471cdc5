"""Which tests begin: several processes share them, and a long one that began last would be waited for alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["deal"]

T = TypeVar("T")


def deal(tests: Sequence[T], hands: int, is_long: Callable[[T], bool]) -> list[T]:
    """The same tests in an order in which each process finds its share of the long ones first.

    pytest-xdist's `worksteal` gives each process one stretch of the list and moves tests from the end of the longest
    one afterwards. The others keep their order, so that what they share is set up in few processes.

    Args:
        tests: in the order of collection.
        hands: processes that share them.
        is_long: whether a test starts a training of its own.
    """
    long = [test for test in tests if is_long(test)]
    rest = [test for test in tests if not is_long(test)]
    dealt: list[T] = []
    for hand in range(hands):
        first = long[hand::hands]
        end = (hand + 1) * len(tests) // hands
        others = max(0, end - len(dealt) - len(first)) if hand < hands - 1 else len(rest)
        dealt += first + rest[:others]
        del rest[:others]
    return dealt
