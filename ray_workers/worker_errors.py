"""What a worker raised, below the wrappers that Ray puts around it."""

from __future__ import annotations

__all__ = ["causes_of", "last_line"]


def causes_of(error: Exception) -> dict[int, BaseException]:
    """By rank, lowest first; empty if no worker brought an error of its own."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    return {rank: _cause(failure) for rank, failure in sorted(failures.items())}


def last_line(error: BaseException) -> str:
    """The last line of its text that says something; a traceback ends with what happened."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _cause(failure: Exception) -> BaseException:
    seen: BaseException = failure
    for _ in range(10):
        inner = getattr(seen, "_base_exc", None) or getattr(seen, "cause", None)
        if not isinstance(inner, BaseException) or inner is seen:
            return seen
        seen = inner
    return seen
