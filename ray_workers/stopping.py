"""Why a session stops before its loop is done, as the error that ends the loop."""

from __future__ import annotations

from ray_workers.store.errors import (
    FailureBudgetSpentError,
    FenceLostError,
    PawlError,
    RetryableError,
)

__all__ = ["stop_error"]


def stop_error(stop: str, *, run: str, step: int, patience_s: float) -> PawlError:
    """The error for the stop reason that all ranks agreed on.

    Args:
        stop: `fence_lost`, `budget_spent`, or anything else for a stop that was asked for.
        run: the run's name.
        step: where training stands.
        patience_s: how long the last save was waited for.
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
    return RetryableError(
        f"Run {run!r} stops at step {step}: it was asked to, or its last save had no answer for "
        f"{patience_s:.0f} s. A retry resumes from its newest version."
    )
