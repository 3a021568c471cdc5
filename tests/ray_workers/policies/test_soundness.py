from __future__ import annotations

import math

import pytest

from ray_workers.config import Validation
from ray_workers.policies.soundness import Drift, SoundnessPolicy, robust_z

STEADY = Drift(parent_norm=10.0, norms=tuple(10 - 0.1 * n for n in range(9)), updates=(0.01,) * 9)


def test_the_robust_score_is_not_moved_by_one_outlier():
    assert robust_z(3.0, [1, 2, 3, 4, 5], floor=0.01) == 0
    assert robust_z(4.4826, [1, 2, 3, 4, 5], floor=0.01) == pytest.approx(1.0)
    assert robust_z(10, [1, 2, 3, 4, 1000], floor=0.01) == pytest.approx(7 / 1.4826)
    assert robust_z(1.5, [1, 1, 1], floor=0.25) == 2


@pytest.mark.parametrize(
    ("factor", "drifts"), [(1.02, False), (1.4, False), (2.0, True), (0.5, True)]
)
def test_a_norm_that_changes_as_never_before_is_drift(factor, drifts):
    policy = SoundnessPolicy()
    score = policy.norm_score(10.0 * factor, STEADY)
    assert (policy.drifted(score, None) is not None) is drifts


@pytest.mark.parametrize(
    ("rate", "drifts"), [(0.01, False), (0.05, False), (0.5, True), (1e-9, False)]
)
def test_only_a_large_update_is_drift(rate, drifts):
    policy = SoundnessPolicy()
    assert (policy.drifted(None, policy.update_score(rate, STEADY)) is not None) is drifts


def test_a_restless_history_allows_more():
    restless = Drift(parent_norm=10.0, norms=tuple(10.0 * 2 ** (n % 2) for n in range(9)))
    policy = SoundnessPolicy()
    assert policy.drifted(policy.norm_score(20.0, restless), None) is None


def test_too_short_a_history_judges_nothing():
    short = Drift(parent_norm=10.0, norms=STEADY.norms[:6], updates=STEADY.updates[:5])
    policy = SoundnessPolicy()
    assert policy.norm_score(1e6, short) is None
    assert policy.update_score(1e6, short) is None
    assert policy.norm_score(1e6, Drift(norms=STEADY.norms[:7])) is not None


@pytest.mark.parametrize("norms", [(0.0,) * 9, ()])
def test_norms_of_zero_are_no_measure(norms):
    assert SoundnessPolicy().norm_score(0.0, Drift(norms=norms)) is None
    assert SoundnessPolicy().update_score(0.0, STEADY) is None
    assert SoundnessPolicy().update_score(None, STEADY) is None
    assert not math.isnan(SoundnessPolicy().norm_score(1.0, STEADY) or 0)


def test_it_is_what_the_user_set():
    settings = Validation(
        max_norm_ratio=3, max_drift=4, probe="m:f", probe_tolerance=0.5, checks=("a:b",)
    )
    assert SoundnessPolicy.of(settings) == SoundnessPolicy(
        max_norm_ratio=3, max_drift=4, probe="m:f", probe_tolerance=0.5, checks=("a:b",)
    )
