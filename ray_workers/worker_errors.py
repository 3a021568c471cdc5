"""What a worker raised, below the wrappers that Ray puts around it."""

from __future__ import annotations

from collections.abc import Mapping

from ray_workers.policies.failure_causes import is_broken_group, is_lost

__all__ = ["causes_of", "culprit", "last_line"]


def causes_of(error: Exception) -> dict[int, BaseException]:
    """By rank, lowest first; empty if no worker brought an error of its own."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    return {rank: _cause(failure) for rank, failure in sorted(failures.items())}


def culprit(causes: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """The rank that the others fell with: one that is gone, else one that raised for reasons of its own, else the lowest."""

    def blame(item: tuple[int, BaseException]) -> tuple[int, int]:
        rank, cause = item
        kind = type(cause).__name__
        if is_lost(kind):
            return 0, rank
        return (2 if is_broken_group(kind, last_line(cause)) else 1), rank

    return min(causes.items(), key=blame)


def last_line(error: BaseException) -> str:
    """The last line of its text that says something; a traceback ends with what happened."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _cause(failure: Exception) -> BaseException:
    seen: BaseException = failure
    for _ in range(10):
        names = ("_base_exc", "cause", "health_check_failure")
        inner = next((found for name in names if (found := getattr(seen, name, None))), None)
        if not isinstance(inner, BaseException) or inner is seen:
            return seen
        seen = inner
    return seen
