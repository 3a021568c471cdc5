"""Which errors of a call say that the actor is dead: Ray has more types for that than its tree shows."""

from __future__ import annotations

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

from ray_workers.actor_errors import in_short, is_gone


def raised(cause: Exception) -> Exception:
    """As `ray.get` raises what a method of a living actor raised."""
    error: Exception = RayTaskError("save", "Traceback …", cause, "worker", 7, "ip")
    return error.as_instanceof_cause()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("error", [ActorDiedError(), RayActorError(), OutOfMemoryError("killed")])
def test_a_dead_actor(error):
    assert is_gone(error)


@pytest.mark.parametrize(
    "error",
    [
        ActorUnavailableError("cut", None),
        GetTimeoutError("late"),
        ObjectLostError("00", None, ""),
        raised(ValueError("mine")),
        raised(ActorDiedError()),  # of another actor, which this one had called
    ],
)
def test_one_that_may_live(error):
    assert not is_gone(error)


def test_a_long_message_is_one_line():
    assert in_short(ActorDiedError()).startswith("ActorDiedError: The actor died unexpectedly")
    assert in_short(ValueError("a\n\n  b")) == "ValueError: a b"
    assert in_short(ValueError()) == "ValueError"
