"""One run of the kill campaign for each loop: every target killed once, at moments drawn from a fixed seed."""

from __future__ import annotations

import pytest

from tests.support.kill_campaign import campaign
from tests.support.kill_plan import LOOPS, TARGETS, draw

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.slow, pytest.mark.fault]


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_killed_at_drawn_moments_it_ends_with_the_same_bits(loop: str) -> None:
    (kills,) = draw(len(TARGETS), 20, loops=(loop,), targets=tuple(TARGETS))
    with campaign() as made:
        rows = made.play(kills, seed=20, number=0)
    assert {row.target for row in rows} == set(TARGETS)
    assert all(row.identical for row in rows), rows
