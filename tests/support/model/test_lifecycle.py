"""The life of versions and their bytes, explored to the last state; and what breaks without each guard."""

from __future__ import annotations

import pytest

from tests.support.model.explorer import explore
from tests.support.model.lifecycle import Invariant, LifecycleModel
from tests.support.model.lifecycle_state import ALL_GUARDS, Guard, Scenario

PLAIN = Scenario()
TAG = Scenario(tagger=True)
FORK = Scenario(forker=True)
TAG_AND_FORK = Scenario(tagger=True, forker=True)
DEMOTION = Scenario(demotion=True)
DEMOTION_OF_THREE = Scenario(demotion=True, three_sound=True)
EVERYTHING = Scenario(tagger=True, forker=True, demotion=True, three_sound=True)


@pytest.mark.parametrize(
    ("scenario", "states"),
    [
        pytest.param(PLAIN, 4_228, id="plain"),
        pytest.param(TAG, 13_929, id="tag"),
        pytest.param(FORK, 11_860, id="fork"),
        pytest.param(DEMOTION, 68_112, id="demotion", marks=pytest.mark.slow),
        pytest.param(TAG_AND_FORK, 38_955, id="tag-and-fork", marks=pytest.mark.slow),
        pytest.param(DEMOTION_OF_THREE, 333_414, id="demotion-of-three", marks=pytest.mark.slow),
        pytest.param(
            EVERYTHING,
            1_293_748,
            id="everything",
            marks=[pytest.mark.slow, pytest.mark.timeout(1200)],
        ),
    ],
)
def test_with_all_guards_every_invariant_holds_in_every_state(scenario, states):
    exploration = explore(LifecycleModel(scenario=scenario))
    assert exploration.violation is None, exploration.trace
    # The count is pinned because a model that reaches fewer states shows less.
    assert exploration.states == states


# The fence in a data key adds nothing to the nonce; it is there for the sweep of orphans, and no cure by itself.
COUNTEREXAMPLES = [
    ({Guard.NONCE_IN_KEY, Guard.FENCE_IN_KEY}, DEMOTION_OF_THREE, Invariant.COMPLETE, 9),
    ({Guard.NONCE_IN_KEY}, DEMOTION_OF_THREE, Invariant.COMPLETE, 9),
    ({Guard.CONDEMN_RECORD}, DEMOTION_OF_THREE, Invariant.COMPLETE, 7),
    ({Guard.BASE_CHECK}, DEMOTION_OF_THREE, Invariant.COMPLETE, 8),
    ({Guard.ORPHANS_BY_FENCE}, PLAIN, Invariant.COMPLETE, 6),
    ({Guard.RESUME_RECORD}, PLAIN, Invariant.RESUME_POINT, 20),
    ({Guard.FOLD_AFTER_404}, PLAIN, Invariant.NO_FALSE_ALARM, 10),
    ({Guard.PROTECTION_AT_CONDEMN}, PLAIN, Invariant.NEWEST_SOUND, 10),
    ({Guard.KEEP_UPLOADS}, PLAIN, Invariant.COMPLETE, 5),
    ({Guard.FENCE_CHECK}, PLAIN, Invariant.FENCED, 6),
    ({Guard.TAG_CHECK}, TAG, Invariant.TAGGED, 7),
    ({Guard.TWO_SOUND}, DEMOTION_OF_THREE, Invariant.NEWEST_SOUND, 6),
    ({Guard.TWO_SOUND}, DEMOTION, Invariant.LAST_SOUND, 10),
    ({Guard.PIN_FIRST}, FORK, Invariant.FORKED, 16),
]


@pytest.mark.parametrize(
    ("removed", "scenario", "invariant", "steps"),
    [
        pytest.param(*row, id="+".join(sorted(g.name.lower() for g in row[0])) + f"-{row[3]}")
        for row in COUNTEREXAMPLES
    ],
)
def test_without_a_guard_an_invariant_breaks(removed, scenario, invariant, steps):
    exploration = explore(LifecycleModel(scenario=scenario, guards=ALL_GUARDS - removed))
    assert exploration.violation is not None
    assert exploration.violation.invariant == invariant
    assert len(exploration.trace) == steps, exploration.trace


def test_every_guard_has_a_counterexample():
    covered = frozenset(guard for removed, *_ in COUNTEREXAMPLES for guard in removed)
    assert covered == ALL_GUARDS


def test_a_trace_tells_what_happened():
    exploration = explore(LifecycleModel(guards=ALL_GUARDS - {Guard.KEEP_UPLOADS}))
    assert exploration.trace == (
        "W1 plans: reuse D from v1",
        "W1 uploads e3",
        "W1 sends commit",
        "W1 timeout, slot empty, gives up, deletes own upload",
        "W1 commit c1 ['D', 'e3'] lands",
    )
    assert exploration.violation == (Invariant.COMPLETE, "c1 lacks ['e3']")
