import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_workers.policies.failure_rate import PRIOR, Evidence, FailureRate, Gamma
from ray_workers.store.errors import InvalidInputError

AMOUNT = st.floats(min_value=0, max_value=1e4)
EVIDENCE = st.builds(
    Evidence,
    failures=st.integers(0, 50).map(float),
    worker_hours=AMOUNT,
    age_hours=st.floats(min_value=0, max_value=1e4),
)


def single(failures, hours):
    return FailureRate((Gamma(failures=failures, worker_hours=hours),))


def test_one_gamma_is_updated_by_adding_up():
    seen = single(0.5, 5000.0).after([Evidence(failures=2, worker_hours=1000)])
    (part,) = seen.parts
    assert (part.failures, part.worker_hours) == (2.5, 6000.0)
    assert seen.mtbf_s(16) == pytest.approx(3600 / (16 * 2.5 / 6000))


def test_a_failure_after_twenty_hours_says_that_machines_are_preempted():
    rate = PRIOR.after([Evidence(failures=1, worker_hours=20.0)])
    assert 0.01 < rate.mean < 0.1


def test_minutes_without_a_failure_on_many_workers_say_that_they_are_not():
    assert PRIOR.mean > 1e-3
    quiet = PRIOR.after([Evidence(failures=0, worker_hours=16_384 * 0.25)])
    assert quiet.mean < 1e-4


@pytest.mark.parametrize("true_rate", [2e-5, 1e-4, 3e-3, 5e-2])
def test_with_much_evidence_the_rate_is_what_was_seen(true_rate):
    rate = PRIOR.after([Evidence(failures=100, worker_hours=100 / true_rate)])
    assert rate.mean == pytest.approx(true_rate, rel=0.05)
    low, high = rate.bounds()
    assert 0.8 * true_rate < low < true_rate < high < 1.25 * true_rate


@pytest.mark.parametrize(
    ("failures", "low", "high"),
    [(2.0, 0.3554, 4.7439), (10.0, 5.4254, 15.7052), (100.0, 84.1389, 116.9893)],
)
def test_the_bounds_are_those_of_the_gamma_distribution(failures, low, high):
    """Tabulated quantiles (5 % and 95 %) of Gamma(shape, 1)."""
    assert single(failures, 1.0).bounds() == pytest.approx((low, high), rel=0.03)


@given(st.lists(EVIDENCE, max_size=5), EVIDENCE)
def test_a_failure_raises_the_rate_and_quiet_hours_lower_it(evidence, more):
    before = PRIOR.after(evidence, 100.0)
    quiet = Evidence(failures=0, worker_hours=more.worker_hours, age_hours=more.age_hours)
    assert PRIOR.after([*evidence, quiet], 100.0).mean <= before.mean * (1 + 1e-9)
    failed = Evidence(failures=more.failures, worker_hours=0.0, age_hours=more.age_hours)
    assert PRIOR.after([*evidence, failed], 100.0).mean >= before.mean * (1 - 1e-9)
    low, high = before.bounds()
    assert 0 <= low <= high < math.inf


@given(st.lists(EVIDENCE, min_size=2, max_size=5), st.integers(1, 4))
def test_evidence_in_two_parts_says_the_same_as_at_once(evidence, cut):
    at_once = PRIOR.after(evidence)
    in_parts = PRIOR.after(evidence[:cut]).after(evidence[cut:])
    assert in_parts.mean == pytest.approx(at_once.mean, rel=1e-6)


def test_what_is_older_than_many_half_lives_is_forgotten():
    old = Evidence(failures=100, worker_hours=1.0, age_hours=1e5)
    assert PRIOR.after([old], 100.0).mean == pytest.approx(PRIOR.mean)
    assert PRIOR.after([old]).mean > 1


@pytest.mark.parametrize("wrong", [{"failures": 0.0}, {"worker_hours": 0.0}, {"weight": -1.0}])
def test_a_rate_without_any_prior_is_refused(wrong):
    with pytest.raises(InvalidInputError, match="prior"):
        Gamma(**{"failures": 1.0, "worker_hours": 1.0, **wrong})
    with pytest.raises(InvalidInputError, match="weight"):
        FailureRate(())
