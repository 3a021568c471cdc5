"""What `docs/how-to.md` says of learning-rate schedules when a finished run trains for more epochs."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from ray_workers.training_state import TrainingParts, apply, capture

STEPS, MORE = 10, 16


def training(make, steps):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainingParts(model=model, optimizer=optimizer, scheduler=make(optimizer, steps))


def rates(parts, count):
    found = []
    for _ in range(count):
        parts.optimizer.step()
        parts.scheduler.step()
        found.append(parts.optimizer.param_groups[0]["lr"])
    return found


def longer(make):
    """The rates of the steps from `STEPS` to `MORE`, of a run that was planned for `STEPS`."""
    first, second = training(make, STEPS), training(make, MORE)
    rates(first, STEPS)
    apply(second, capture(first))
    return rates(second, MORE - STEPS)


def test_one_cycle_says_that_it_is_over():
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        longer(lambda o, steps: lr_scheduler.OneCycleLR(o, 0.1, total_steps=steps))


def test_a_cosine_rises_again():
    found = longer(lr_scheduler.CosineAnnealingLR)
    assert found == sorted(found)
    assert found[-1] > 0.05


@pytest.mark.parametrize(
    "make",
    [lr_scheduler.PolynomialLR, lambda o, steps: lr_scheduler.LinearLR(o, 1.0, 0.0, steps)],
)
def test_others_stay_where_they_ended(make):
    assert set(longer(make)) == {0.0}


def test_a_function_of_the_step_follows_the_new_length():
    def make(optimizer, steps):
        return lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)

    assert longer(make) == rates(training(make, MORE), MORE)[STEPS:]
