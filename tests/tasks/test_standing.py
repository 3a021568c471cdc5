from __future__ import annotations

import pytest

from ray_workers.store.errors import RunNotFoundError
from ray_workers.store.memory import MemoryStore
from tasks.standing import standing
from tests.support.factories import MadeUpRun


@pytest.fixture
def run():
    run = MadeUpRun(store=MemoryStore())
    run.start()
    return run


def test_step_epoch_loss_and_the_newest_trusted_version_are_named(run):
    run.commit(10, epoch=1)
    run.judge(1, check="verified")
    run.judge(1, check="sound")
    run.commit(20, epoch=2)
    assert standing(run.store, "digits") == (
        "Run 'digits': step 20, epoch 2 of 3, loss 0.05, newest sound version 1 (step 10)"
    )


def test_a_quarantined_version_is_no_place_to_stand(run):
    run.commit(10, metrics={})
    assert standing(run.store, "digits") == "Run 'digits': step 10, epoch 0 of 3, no sound version"
    run.judge(1, reason="NaN in 'w'")
    assert standing(run.store, "digits") == "Run 'digits': no version yet"


def test_without_a_readable_manifest_the_log_is_enough(run):
    run.commit(10)
    for info in list(run.store.list("runs/digits/manifests/")):
        run.store.delete(info.key)
    assert standing(run.store, "digits") == "Run 'digits': step 10, no sound version"


def test_no_run_is_an_error():
    with pytest.raises(RunNotFoundError):
        standing(MemoryStore(), "nobody")
