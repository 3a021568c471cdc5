from __future__ import annotations

import pytest

from tests.support.model.explorer import Violation, explore


class Counter:
    """Counts up by two or by three; 7 is forbidden."""

    def __init__(self, *, top: int) -> None:
        self._top = top

    def initial(self) -> int:
        return 0

    def steps(self, state: int) -> list[tuple[str, int]]:
        return [(f"+{n}", state + n) for n in (2, 3) if state + n <= self._top]

    def violation(self, before: int, after: int) -> Violation | None:
        return Violation("no seven", f"{before} to {after}") if after == 7 else None


def test_every_reachable_state_is_visited_once():
    exploration = explore(Counter(top=6))
    assert (exploration.violation, exploration.trace) == (None, ())
    assert exploration.states == len({0, 2, 3, 4, 5, 6})


def test_the_trace_to_a_violation_is_a_shortest_one():
    exploration = explore(Counter(top=9))
    assert exploration.violation == ("no seven", "4 to 7")
    assert exploration.trace == ("+2", "+2", "+3")


def test_a_search_cut_short_is_an_error():
    with pytest.raises(AssertionError, match="more than 3 states"):
        explore(Counter(top=6), limit=3)
