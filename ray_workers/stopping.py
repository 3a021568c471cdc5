"""The errors with which a training loop is left when its attempt must end."""

from __future__ import annotations

from ray_workers.store.errors import (
    AttemptInterruptedError,
    FailureBudgetSpentError,
    FenceLostError,
    PawlError,
    RetryableError,
)

__all__ = ["stop_error"]


def stop_error(stop: str, *, run: str, step: int, committed_step: int) -> PawlError:
    """What every rank raises at `step`, where all have agreed to end.

    Args:
        stop: the reason, as in `messages.StopRequest`.
        run: the run's name.
        step: steps done.
        committed_step: the step of the newest version that this rank knows of; -1: none.
    """
    if stop == "fence_lost":
        return FenceLostError(
            f"Run {run!r} was taken over by a newer attempt; this one stops at step {step}."
        )
    if stop == "budget_spent":
        return FailureBudgetSpentError(
            f"Run {run!r} stops at step {step}: more saves in a row failed than the failure budget allows. The "
            "versions committed before are untouched; a retry resumes from them."
        )
    if stop == "interrupted":
        kept = f"step {committed_step} is kept" if committed_step >= 0 else "nothing was saved yet"
        return AttemptInterruptedError(
            f"Run {run!r} was interrupted at step {step}; {kept}. A retry resumes from its newest version.",
            step=step,
            committed_step=committed_step,
        )
    return RetryableError(
        f"Run {run!r} stops at step {step}: it was asked to, or its last save did not become a version. A retry "
        "resumes from its newest version."
    )
