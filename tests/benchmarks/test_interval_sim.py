"""The simulator of the interval benchmark: its lives have the rate they claim, and its arithmetic holds."""

from __future__ import annotations

import random
import statistics
from itertools import islice

import pytest

from benchmarks.interval_run import compare
from benchmarks.interval_sim import Costs, Life, fixed, life_of, pawl, share_kept
from benchmarks.interval_traces import PROCESSES, SITES, Site

COSTS = Costs(name="test", cost_s=1.0, persist_s=10.0, restart_s=60.0, source="made up")


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_every_process_fails_as_often_as_it_says(process):
    rng = random.Random(4)  # noqa: S311 - a simulation
    gaps = list(islice(process.gaps(3600.0, rng), 20_000))
    assert statistics.fmean(gaps) == pytest.approx(3600.0, rel=0.06)
    assert min(gaps) >= 0


def test_lives_are_the_same_every_time():
    assert life_of(SITES[0], PROCESSES[0], 3, 5) == life_of(SITES[0], PROCESSES[0], 3, 5)
    assert life_of(SITES[0], PROCESSES[0], 3, 5) != life_of(SITES[0], PROCESSES[0], 4, 5)


@pytest.mark.parametrize(
    ("failure_s", "kept"),
    [
        (99.0, 0.0),  # the first copy begins after 99 s of work
        (108.9, 0.0),  # and is a version 10 s later
        (109.1, 99.0),
        (209.1, 198.0),
    ],
)
def test_what_a_failure_leaves(failure_s, kept):
    life = Life(failures_s=(failure_s,))
    assert share_kept(life, COSTS, fixed(100.0)) == pytest.approx(kept / failure_s)


def test_a_failure_while_coming_back_keeps_nothing_and_costs_no_second_restart_at_once():
    life = Life(failures_s=(209.1, 250.0, 209.1 + 60.0 + 209.1))
    assert share_kept(life, COSTS, fixed(100.0)) == pytest.approx(2 * 198.0 / life.end_s)


def test_a_store_that_is_slower_than_the_interval_sets_the_interval():
    slow = Costs(name="slow", cost_s=1.0, persist_s=50.0, restart_s=0.0, source="made up")
    life = Life(failures_s=(1000.0,))
    assert share_kept(life, slow, fixed(1.0)) == share_kept(life, slow, fixed(50.0))


class _Stepwise:
    """A fixed interval that is not recognised as one."""

    def interval_s(self):
        return 77.0

    def saved(self, rng): ...

    def went_on(self, seconds): ...

    def failed(self): ...


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_the_short_cut_for_fixed_intervals_is_exact(process):
    site = Site(name="small", workers=4, mtbf_s=900.0, source="made up")
    life = life_of(site, process, 1, 50)
    stepwise = share_kept(life, COSTS, lambda _: _Stepwise())
    assert share_kept(life, COSTS, fixed(77.0)) == pytest.approx(stepwise, rel=1e-9)


def test_after_some_failures_only_the_rest_counts():
    life = Life(failures_s=(5.0, 10_000.0))
    whole = share_kept(life, COSTS, fixed(100.0))
    rest = share_kept(life, COSTS, fixed(100.0), after=1)
    assert rest == pytest.approx(whole * 10_000.0 / 9995.0)


def test_pawls_rule_learns_and_stays_near_the_best_fixed_interval():
    site = Site(name="spot", workers=8, mtbf_s=7200.0, source="made up")
    found = compare(site, PROCESSES[0], COSTS, seeds=3, failures=25)
    assert found.regret("Pawl", cold=False) < 0.02
    assert found.regret("Pawl", cold=True) < 0.05
    assert found.regret("every 2 h", cold=False) > 0.2  # the measure can tell rules apart
    assert share_kept(life_of(site, PROCESSES[0], 0, 5), COSTS, pawl(8)) > 0.5
