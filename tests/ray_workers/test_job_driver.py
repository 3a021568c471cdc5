"""How a Ray job says what ended it, in the run's log."""

from __future__ import annotations

import pytest

from ray_workers.job_driver import _outcome, _Stopped
from ray_workers.store.errors import AttemptInterruptedError, DamageError, TrainingFailedError


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (AttemptInterruptedError("time limit: Run 'r'"), "interrupted", "time limit: Run 'r'"),
        (_Stopped(), "interrupted", "cancelled: the Ray job was stopped"),
        (TrainingFailedError("Training of run 'r' failed: x"), "failed", "Training of run 'r' failed: x (error TrainingFailedError)"),
        (DamageError("Shard k.", rank=1, node="h"), "failed", "Shard k. (rank 1, node h, error DamageError)"),
        (ValueError(), "failed", "ValueError (error ValueError)"),
    ],
)  # fmt: skip
def test_what_ended_it(error, outcome, reason):
    assert _outcome(error) == (outcome, reason)
