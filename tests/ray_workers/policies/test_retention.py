import math

import pytest

from ray_workers.policies.retention import RetentionFacts, RetentionPolicy

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
