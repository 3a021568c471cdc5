import pytest

from ray_workers.policies.save_interval import SaveFacts, SaveThresholds

STEPS, EPOCHS, SECONDS = {"every_steps": 10}, {"every_epochs": 2}, {"every_seconds": 60.0}


def facts(step, *, last_step=0, epoch=0, last_epoch=0, seconds=0.0):
    return SaveFacts(
        step=step, epoch=epoch, seconds=seconds, last_step=last_step, last_epoch=last_epoch
    )


@pytest.mark.parametrize(
    ("thresholds", "now", "why"),
    [
        ({}, facts(1000, epoch=9, seconds=1e9), None),
        (STEPS, facts(9), None),
        (STEPS, facts(10), "every 10 steps"),
        (STEPS, facts(13), "every 10 steps"),  # passed while a save was in flight: still due
        (STEPS, facts(13, last_step=10), None),
        (STEPS, facts(19, last_step=13), None),  # multiples count from step 0, not from the save
        (STEPS, facts(20, last_step=13), "every 10 steps"),
        (EPOCHS, facts(5, epoch=1), None),
        (EPOCHS, facts(9, epoch=2), "every 2 epochs"),
        (EPOCHS, facts(14, epoch=3, last_epoch=2, last_step=9), None),
        (SECONDS, facts(1, seconds=59.9), None),
        (SECONDS, facts(1, seconds=60.0), "every 60 s"),
        (SECONDS, facts(7, last_step=7, seconds=600.0), None),  # nothing new to save
        (STEPS, facts(10, last_step=10), None),
        (STEPS | EPOCHS, facts(10, epoch=2), "every 10 steps"),
        (STEPS | EPOCHS, facts(9, epoch=2), "every 2 epochs"),
        (STEPS | SECONDS, facts(9, seconds=61), "every 60 s"),
        (EPOCHS | SECONDS, facts(9, epoch=1, seconds=1), None),
    ],
)
def test_whichever_threshold_comes_first_asks_for_a_save(thresholds, now, why):
    assert SaveThresholds(**thresholds).due(now) == why


@pytest.mark.parametrize(("step", "at"), [(0, 10), (9, 10), (10, 20), (11, 20)])
def test_the_next_step_at_which_the_step_threshold_is_due(step, at):
    assert SaveThresholds(**STEPS).next_multiple(step) == at
    assert SaveThresholds(**EPOCHS).next_multiple(step) is None
