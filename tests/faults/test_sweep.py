"""A sample of the sweep: every single step with every fault, some hundred histories. `make test-faults` plays it all."""

from __future__ import annotations

import pytest

from ray_workers.store.local_folder import LocalFolderStore
from tests.support import guard_removals, sweep_removals
from tests.support.simulation.beginnings import begin
from tests.support.simulation.enumeration import (
    BEGINNING,
    FAULTS,
    STEPS,
    CaseError,
    Counts,
    enumerate_sequence,
    sequences,
)
from tests.support.simulation.histories import Mix, play_history
from tests.support.simulation.world import simulated

pytestmark = pytest.mark.fault

MIX = Mix()


def test_nothing_breaks_whatever_call_of_one_step_goes_wrong():
    counts = Counts()
    with simulated():
        for names in sequences(1):
            enumerate_sequence(names, counts)
    assert {step for step, _ in counts.cases} == set(STEPS)
    assert {injury for _, injury in counts.cases} == {injury.name for injury in FAULTS}
    assert counts.total > 5 * counts.crash_points > 1000


def test_nothing_breaks_when_two_steps_follow_the_one_that_went_wrong():
    counts = Counts()
    with simulated():
        enumerate_sequence(["retire", "sweep", "start"], counts)
    assert {step for step, _ in counts.cases} == {"retire", "sweep", "start"}


def test_cases_that_left_the_same_go_on_as_one():
    each, merged = Counts(), Counts()
    with simulated():
        enumerate_sequence(["end", "retire"], each, merge=False)
        enumerate_sequence(["end", "retire"], merged)
    assert each.endings == each.total == merged.total
    assert 10 < merged.endings < each.endings / 4


@pytest.mark.parametrize(
    ("remove", "names"),
    [
        (guard_removals.gives_up_without_answer, ["commit"]),
        (sweep_removals.one_key_for_all_tries, ["commit"]),
        (sweep_removals.shards_at_first_sight, ["start", "validate"]),
    ],
)
def test_the_same_case_breaks_whether_or_not_cases_go_on_as_one(remove, names, monkeypatch):
    with simulated():
        begin(BEGINNING)  # with the guard
        remove(monkeypatch)
        alone, merged = (what_breaks(names, merge=merge) for merge in (False, True))
    assert merged == alone


def what_breaks(names, *, merge):
    with pytest.raises(CaseError) as broken:
        enumerate_sequence(names, Counts(), merge=merge)
    return str(broken.value)


def test_nothing_breaks_in_random_histories():
    with simulated():
        calls = [play_history(seed, MIX) for seed in range(150)]
    assert sum(calls) > 10_000


def test_nothing_breaks_in_random_histories_in_a_folder(tmp_path):
    with simulated():
        for seed in range(1000, 1010):
            play_history(seed, MIX, LocalFolderStore(tmp_path / str(seed)))


def test_a_seed_plays_the_same_history_again():
    with simulated():
        first, again = ([play_history(seed, MIX) for seed in range(20)] for _ in range(2))
    assert first == again
