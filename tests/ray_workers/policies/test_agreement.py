import pytest

from ray_workers.policies.agreement import AgreementPace


@pytest.mark.parametrize(
    ("step_s", "steps"),
    [
        (0.0, 1),  # nothing measured yet
        (-1.0, 1),
        (10.0, 1),  # a step longer than the patience: agree at each
        (1.0, 1),
        (0.3, 2),
        (0.01, 60),
        (0.001, 600),
        (1e-6, 1000),  # never more than this, however short the steps
    ],
)
def test_agreeing_costs_a_thousandth_and_is_never_late(step_s, steps):
    assert AgreementPace().steps_between(step_s) == steps


@pytest.mark.parametrize("step_s", [0.0007, 0.004, 0.05, 0.9, 4.0, 30.0])
def test_both_bounds_hold_at_any_step_time(step_s):
    pace = AgreementPace()
    steps = pace.steps_between(step_s)
    assert steps == 1 or steps * step_s <= pace.longest_s
    assert steps == pace.most_steps or pace.cost_s <= pace.budget * steps * step_s * 1.0001


def test_patience_comes_before_thrift():
    assert AgreementPace(cost_s=10.0, longest_s=2.0).steps_between(0.5) == 4
