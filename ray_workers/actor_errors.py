"""What the error of a call to an actor says of the actor itself."""

from __future__ import annotations

from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

__all__ = ["in_short", "is_gone"]

_GONE = (
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,  # Ray's memory monitor killed it; this is no `RayActorError`
    RayActorError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)
_LONGEST = 300


def is_gone(error: Exception) -> bool:
    """Whether the process that was called is dead, or never was.

    False of one that raised `error` itself, and of one that only cannot be reached: that may live, and have heard.
    """
    if isinstance(error, RayTaskError | ActorUnavailableError):
        return False  # the first may be of whatever type its cause is
    return isinstance(error, _GONE)


def in_short(error: Exception) -> str:
    """Type and text on one line: Ray's own messages have many."""
    text = " ".join(str(error).split())[:_LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
