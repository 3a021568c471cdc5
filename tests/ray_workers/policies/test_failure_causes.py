import pytest

from ray_workers.policies.failure_causes import CAUSES, cause_of_end

FAILED = "Training of run 'r' failed on rank {}: {}"


@pytest.mark.parametrize(
    ("outcome", "reason", "cause"),
    [
        ("completed", None, "none"),
        (None, None, "infrastructure"),  # its end was never recorded: everything died
        ("failed", FAILED.format(0, "ValueError: shapes do not fit"), "user"),
        ("failed", FAILED.format(1, "KeyError: 'lr' (Run 'r': step 3)"), "user"),
        ("failed", FAILED.format(1, "RuntimeError: mat1 and mat2 cannot be multiplied"), "user"),
        ("failed", FAILED.format(0, "ActorDiedError: The actor died unexpectedly"), "infrastructure"),
        ("failed", FAILED.format(0, "RuntimeError: [gloo/tcp] Connection closed by peer"), "infrastructure"),
        ("failed", FAILED.format("1 (node h, noticed after 2.0 s)", "KeyError: 'lr'"), "user"),
        ("failed", FAILED.format("1 (node h, settled in 2.0 s)", "ActorDiedError: died"), "infrastructure"),
        ("failed", FAILED.format(7, "DistBackendError: NCCL error in: ProcessGroupNCCL"), "infrastructure"),
        ("failed", "Run 'r' stops at step 9: more saves in a row failed than the failure budget", "infrastructure"),
        ("failed", "Training of run 'r' failed: the controller died", "infrastructure"),
        ("failed", "Run 'r' was taken over by a newer attempt", "asked"),
        ("interrupted", "Ctrl-C", "asked"),
        ("interrupted", "cancelled", "asked"),
        ("interrupted", "SIGTERM (TerminationSignal)", "asked"),
    ],
)  # fmt: skip
def test_who_is_to_blame(outcome, reason, cause):
    assert cause in CAUSES
    assert cause_of_end(outcome, reason, open_now=False) == cause


def test_an_attempt_that_still_trains_has_not_failed():
    assert cause_of_end(None, None, open_now=True) == "none"
