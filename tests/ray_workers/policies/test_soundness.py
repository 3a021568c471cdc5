from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from ray_workers.config import Validation
from ray_workers.policies.soundness import Drift, SoundnessPolicy, Spacing, robust_z

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


# --- saves that are not evenly spaced --------------------------------------------------------------------------------


def plateau(momentum: float, saves: Sequence[int]) -> list[np.ndarray]:
    """The parameters of SGD on a noisy plateau, at the steps of `saves`."""
    noise = np.random.default_rng(7)
    at, speed, found = np.full(50, 1.0), np.zeros(50), {}
    for step in range(1, saves[-1] + 1):
        speed = momentum * speed + (at - 1.0) + noise.normal(size=50)
        at = at - 0.01 * speed
        found[step] = at
    return [found[step] for step in saves]


def drift_before(saves: Sequence[int], states: Sequence[np.ndarray]) -> Drift:
    """What the versions before the last of `saves` were like."""
    steps, norms = saves[-2::-1], [float(np.linalg.norm(s)) for s in states[-2::-1]]
    updates = [
        float(np.linalg.norm(new - old)) / (step - before)
        for new, old, step, before in zip(
            states[-2:0:-1], states[-3::-1], steps, steps[1:], strict=False
        )
    ]
    gaps = tuple(a - b for a, b in zip(saves[::-1], saves[-2::-1], strict=False))
    return Drift(
        norms=tuple(norms),
        updates=tuple(updates),
        spacing=Spacing(usual=float(saves[0]), gaps=gaps),
    )


@pytest.mark.parametrize(("momentum", "spacing"), [(0.0, 1000), (0.9, 2000)])
@pytest.mark.parametrize("last", [1, 2, 5])
def test_a_last_save_a_few_steps_after_the_one_before_is_no_drift_on_a_plateau(
    momentum, spacing, last
):
    saves = [spacing * n for n in range(1, 11)] + [10 * spacing + last]
    states = plateau(momentum, saves)
    drift, policy = drift_before(saves, states), SoundnessPolicy()
    assert drift.spacing is not None
    moved = float(np.linalg.norm(states[-1] - states[-2]))
    divisor = drift.spacing.update_steps(last)
    scores = (
        policy.norm_score(float(np.linalg.norm(states[-1])), drift),
        policy.update_score(moved / divisor, drift),
    )
    assert None not in scores
    assert policy.drifted(*scores) is None
    # As if each of the few steps had to be as small as one of many: this is what is not to be.
    assert policy.drifted(None, policy.update_score(moved / last, drift)) is not None
    spoilt = 2.5 * states[-1]
    faulty = policy.norm_score(float(np.linalg.norm(spoilt)), drift)
    assert policy.drifted(faulty, None) is not None
    far = 25 * drift.updates[0] * spacing
    assert policy.drifted(None, policy.update_score(far / divisor, drift)) is not None


def growing(spacing: Spacing, a_step: float = 0.001, saves: int = 7, every: int = 10) -> Drift:
    """Versions every so many steps whose norm grows by the same share each step, newest first."""
    norms = [math.exp(a_step * every * n) for n in range(saves, 0, -1)]
    return Drift(norms=tuple(norms), spacing=spacing)


@pytest.mark.parametrize("grown", [0.0, 0.5, 1.0])
def test_over_a_longer_gap_a_norm_may_go_on_or_stand_still(grown):
    drift = growing(Spacing(usual=10, gaps=(1000, *[10] * 6)))
    policy = SoundnessPolicy()
    norm = drift.norms[0] * math.exp(grown)
    assert policy.norm_score(norm, drift) == pytest.approx(0, abs=1e-9)
    assert policy.drifted(policy.norm_score(drift.norms[0] * math.exp(1.7), drift), None)
    assert policy.drifted(policy.norm_score(drift.norms[0] / 2, drift), None)


def test_after_a_longer_gap_the_shorter_ones_are_as_usual_again():
    drift = growing(Spacing(usual=1000, gaps=(5, *[1000] * 6)), every=1000)
    assert SoundnessPolicy().norm_score(drift.norms[0], drift) == pytest.approx(0, abs=0.2)
    assert SoundnessPolicy().drifted(
        SoundnessPolicy().norm_score(2.5 * drift.norms[0], drift), None
    )


def test_a_gap_gives_no_leeway_to_what_was_refused_on_the_way():
    """A restless history: over twelve gaps a factor of 2.5 could be its own way, after one it is not."""
    norms = [math.exp(0.02 * (-1) ** n) for n in range(9)]
    gaps = (120, *[10] * 8)
    free = Drift(norms=tuple(norms), spacing=Spacing(usual=10, gaps=gaps))
    spoilt = Drift(norms=tuple(norms), spacing=Spacing(usual=10, gaps=gaps, unspoilt=10))
    policy = SoundnessPolicy()
    assert policy.drifted(policy.norm_score(2.5 * norms[0], free), None) is None
    assert policy.drifted(policy.norm_score(2.5 * norms[0], spoilt), None) is not None


def test_a_version_of_an_earlier_step_than_the_one_before_is_judged_as_ever():
    drift = Drift(norms=STEADY.norms, spacing=Spacing(usual=10, gaps=(-50, *[10] * 8)))
    policy = SoundnessPolicy()
    assert policy.drifted(policy.norm_score(10.0, drift), None) is None
    assert policy.drifted(policy.norm_score(20.0, drift), None) is not None
