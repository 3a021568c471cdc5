"""The slots of one log, explored to the last state; and what breaks without each guard."""

from __future__ import annotations

import pytest

from tests.support.model.explorer import explore
from tests.support.model.slots import Invariant, SlotsModel
from tests.support.model.slots_state import PROTOCOL, Faults, Guard, Scenario

PLAIN = Scenario()
WIPE = Scenario(wipe=True)
DAMAGE = Scenario(faults=Faults(damage=1))
MISREAD = Scenario(faults=Faults(misreads=1))
HOLE = Scenario(faults=Faults(holes=1))
STRAGGLER = Scenario(faults=Faults(holes=1), stragglers=True)
LOST_END = Scenario(caches=1, faults=Faults(tails=1))
OLDER_CACHE = Scenario(caches=1, older_caches=True, ends=1)
WARM_CACHES = Scenario(caches=2, warm=True)
STALE_CACHE = Scenario(caches=1, wipe=True)


@pytest.mark.parametrize(
    ("scenario", "states"),
    [
        pytest.param(PLAIN, 4_696, id="plain"),
        # 90 576 but for the version numbers, in which a zombie's record may differ after the wipe
        pytest.param(WIPE, 91_502, id="wipe", marks=pytest.mark.slow),
        pytest.param(DAMAGE, 81_373, id="damage", marks=pytest.mark.slow),
        pytest.param(MISREAD, 23_229, id="misread"),
        pytest.param(HOLE, 12_534, id="hole"),
        pytest.param(STRAGGLER, 73_838, id="straggler", marks=pytest.mark.slow),
        pytest.param(LOST_END, 32_962, id="lost-end", marks=pytest.mark.slow),
        pytest.param(OLDER_CACHE, 160_658, id="older-cache", marks=pytest.mark.slow),
        pytest.param(WARM_CACHES, 139_746, id="warm-caches", marks=pytest.mark.slow),
    ],
)
def test_with_all_guards_every_invariant_holds_in_every_state(scenario, states):
    exploration = explore(SlotsModel(scenario=scenario))
    assert exploration.violation is None, exploration.trace
    assert exploration.states == states


COUNTEREXAMPLES = [
    (Guard.REPEAT_UNTIL_TAKEN, PLAIN, Invariant.REPORTED_FAILED, 3),
    (Guard.CHAIN, WIPE, Invariant.OF_THIS_RUN, 7),
    (Guard.INCARNATION, PLAIN, Invariant.ONE_COMMIT, 5),
    (Guard.DAMAGE_CLOSES_FENCE, DAMAGE, Invariant.FENCED, 5),
    (Guard.NEXT_ON_RUN_ID, DAMAGE, Invariant.USABLE, 1),
    (Guard.DAMAGED_PREV, MISREAD, Invariant.REPORTED_STAYS, 5),
    (Guard.NUMBER_SKIPS_DAMAGE, DAMAGE, Invariant.NUMBERS, 8),
    (Guard.HOLE_IS_DAMAGE, HOLE, Invariant.USABLE, 6),
    (Guard.FIND_OWN, MISREAD, Invariant.ONE_COMMIT, 5),
    (Guard.CACHE_VERSION, OLDER_CACHE, Invariant.FENCED, 4),
    (Guard.CACHE_HEAD, STALE_CACHE, Invariant.USABLE, 4),
    (Guard.BEYOND_THE_END, LOST_END, Invariant.NUMBERS, 10),
    (Guard.READ_AGAIN, WARM_CACHES, Invariant.REPORTED_STAYS, 9),
    (Guard.CONTRADICTED, STRAGGLER, Invariant.USABLE, 8),
]


@pytest.mark.parametrize(
    ("guard", "scenario", "invariant", "steps"),
    [pytest.param(*row, id=row[0].name.lower()) for row in COUNTEREXAMPLES],
)
def test_each_guard_removed_alone_breaks_an_invariant(guard, scenario, invariant, steps):
    exploration = explore(SlotsModel(scenario=scenario, guards=PROTOCOL - {guard}))
    assert exploration.violation is not None
    assert exploration.violation.invariant == invariant
    assert len(exploration.trace) == steps, exploration.trace


def test_every_guard_has_a_counterexample():
    # A Filler narrows the window for a straggler. What closes it is that a contradicted record counts as damaged.
    assert {row[0] for row in COUNTEREXAMPLES} == PROTOCOL - {Guard.FILLER}
