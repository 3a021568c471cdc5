import math

import pytest

from ray_workers.policies.retention import RetentionFacts, RetentionPolicy, Thinning

LOSSES = {1: 0.9, 2: 0.2, 3: math.nan, 4: 0.2, 5: 0.5}


def versions():
    return [
        RetentionFacts(number=n, step=10 * n, bytes=n, metrics={"loss": loss})
        for n, loss in LOSSES.items()
    ]


@pytest.mark.parametrize(
    ("rules", "retired"),
    [
        ({}, []),
        ({"keep_last": 1}, [1, 2, 3, 4]),
        ({"keep_last": 9}, []),
        ({"keep_every_steps": 20}, [1, 3, 5]),
        ({"keep_every_steps": 7}, [1, 2, 3, 4, 5]),
        ({"keep_best": 1}, [1, 2, 3, 5]),  # of two that are equal the newer one
        ({"keep_best": 2}, [1, 3, 5]),
        ({"keep_best": 9}, [3]),  # NaN is never among the best
        ({"keep_best": 1, "mode": "max"}, [2, 3, 4, 5]),
        ({"keep_best": 1, "metric": "accuracy"}, [1, 2, 3, 4, 5]),
        ({"keep_last": 1, "keep_best": 1, "keep_every_steps": 30}, [1, 2]),
    ],
)
def test_what_no_rule_keeps_is_retired(rules, retired):
    plan = RetentionPolicy(**rules).plan(versions(), {})
    assert list(plan.retire) == retired
    assert sorted([*retired, *(kept.number for kept in plan.keep)]) == [1, 2, 3, 4, 5]
    assert plan.bytes_retired == sum(retired)


def test_what_the_store_protects_is_kept_for_the_stores_reason():
    plan = RetentionPolicy(keep_last=1).plan(versions(), {1: "tagged gold", 5: "newest version"})
    assert plan.retire == (2, 3, 4)
    assert [(kept.number, kept.reason) for kept in plan.keep] == [
        (1, "tagged gold"),
        (5, "newest version"),
    ]


def test_each_kept_version_has_a_reason():
    plan = RetentionPolicy(keep_last=1, keep_every_steps=20, keep_best=1).plan(versions(), {})
    assert {kept.number: kept.reason for kept in plan.keep} == {
        2: "at a multiple of 20 steps",
        4: "at a multiple of 20 steps",
        5: "one of the newest 1",
    }


def test_without_versions_there_is_nothing_to_do():
    plan = RetentionPolicy(keep_last=1).plan([], {})
    assert (plan.keep, plan.retire, plan.bytes_retired) == ((), (), 0)


@pytest.mark.parametrize(
    ("rules", "retired"),
    [
        ({"keep_last": 2}, [1, 2, 4]),
        ({"keep_best": 1}, [2, 3, 4, 5]),
        ({"keep_every_epochs": 3}, [1, 2, 4, 5]),
        ({"thin": (Thinning(every_s=7200),)}, [3, 4]),
        ({"keep_every_steps": 4}, [1, 2, 3, 5]),  # takes nobody's place
    ],
)
def test_what_cannot_be_resumed_from_takes_no_place(rules, retired):
    facts = [
        RetentionFacts(
            number=n, step=n, bytes=1, metrics={"loss": 0 if n == 4 else n},
            epoch=3 if n in (3, 4) else 0, committed_s=3600.0 * n, candidate=n != 4,
        )
        for n in range(1, 6)
    ]  # fmt: skip
    plan = RetentionPolicy(**rules).plan(facts, {}, now_s=3600.0 * 9)
    assert list(plan.retire) == retired


def at(number, *, epoch=None, hours=None):
    return RetentionFacts(
        number=number, step=number, bytes=1, metrics={}, epoch=epoch,
        committed_s=None if hours is None else 3600.0 * hours,
    )  # fmt: skip


def test_an_epoch_is_kept_once_by_the_version_at_its_end():
    facts = [at(n, epoch=e) for n, e in enumerate((0, 1, 1, 2, 2, 3, 4, 4), start=1)]
    plan = RetentionPolicy(keep_every_epochs=2).plan(facts, {})
    assert plan.retire == (1, 2, 3, 5, 6, 8)
    assert {kept.number: kept.reason for kept in plan.keep} == {
        4: "at a multiple of 2 epochs",
        7: "at a multiple of 2 epochs",
    }


def test_a_version_whose_epoch_cannot_be_read_is_kept():
    assert RetentionPolicy(keep_every_epochs=2).plan([at(1), at(2, epoch=1)], {}).retire == (2,)


THIN = (Thinning(every_s=3600, until_s=86400), Thinning(every_s=86400))


def test_thinning_keeps_one_an_hour_for_a_day_and_one_a_day_after():
    facts = [at(n + 1, hours=n / 2) for n in range(24 * 2 * 4)]  # two an hour for four days
    plan = RetentionPolicy(thin=THIN).plan(facts, {}, now_s=3600.0 * 96)
    hours = [(kept.number - 1) / 2 for kept in plan.keep]
    assert hours == [0, 24, 48, *range(72, 96)]


def test_who_is_kept_by_thinning_stays_kept_as_time_goes_on():
    facts = [at(n + 1, hours=n / 3) for n in range(200)]
    for now in range(60, 200):
        plan = RetentionPolicy(thin=THIN).plan(facts, {}, now_s=3600.0 * now)
        facts = [fact for fact in facts if fact.number not in plan.retire]
        days = {int(fact.committed_s // 86400) for fact in facts}
        assert days == {0, 1, 2}
    assert len(facts) == 3


def test_past_the_last_band_nothing_is_kept_and_unknown_ages_are():
    thin = (Thinning(every_s=60, until_s=3600),)
    plan = RetentionPolicy(thin=thin).plan([at(1, hours=0), at(2)], {}, now_s=7200.0)
    assert plan.retire == (1,)
