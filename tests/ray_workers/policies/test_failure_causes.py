import pytest

from ray_workers.policies.failure_causes import CAUSES, cause_of_end
from ray_workers.policies.failure_words import placed
from ray_workers.policies.run_history import cause_of_spell

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
        ("failed", "'w' is missing. (rank 0, node h, error StateMismatchError)", "user"),
        ("failed", "Shard k is damaged. (rank 1, error DigestMismatchError)", "user"),
        ("failed", "The loop takes 2 or 4 workers. (rank 0, node h, error InvalidInputError)", "user"),
        ("failed", "No such loop. (error InvalidInputError)", "user"),
        ("failed", "Lost its fence. (rank 0, error FenceLostError)", "asked"),
        ("failed", "The store is away. (rank 3, node h, error StoreUnavailableError)", "infrastructure"),
        ("failed", "Training of run 'r' failed: gone (error TrainingFailedError)", "infrastructure"),
        ("failed", "All connection attempts failed (error ConnectError)", "infrastructure"),
        ("failed", "Shard k is damaged. (rank 1, node h)", "infrastructure"),  # an older Pawl did not write the type
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


def test_a_fence_that_another_flow_run_took_was_asked_for_and_one_that_the_same_took_was_lost():
    ended_by = [
        cause_of_end(None, None, open_now=False, passed_on=other) for other in (True, False)
    ]
    assert ended_by == ["asked", "infrastructure"]
    assert (
        cause_of_end(
            "failed", FAILED.format(0, "ActorDiedError: gone"), open_now=False, passed_on=True
        )
        == "infrastructure"
    )


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("StateMismatchError", "user"),
        ("InvalidInputError", "user"),
        ("DigestMismatchError", "user"),
        ("ValueError", "user"),
        ("FenceLostError", "asked"),
        ("AttemptInterruptedError", "asked"),
        ("RankHungError", "infrastructure"),
        ("StoreUnavailableError", "infrastructure"),
        ("FailureBudgetSpentError", "infrastructure"),
        ("ActorDiedError", "infrastructure"),
        ("ReadTimeout", "infrastructure"),
    ],
)  # fmt: skip
def test_the_log_and_the_orchestrator_judge_alike(error, cause):
    written = placed("What happened.", rank=1, node="h", error=error)
    assert cause_of_end("failed", written, open_now=False) == cause
    told = f"Flow run encountered an exception: {error}: What happened. (version 3 is kept)"
    assert cause_of_spell("failed", told) == cause
