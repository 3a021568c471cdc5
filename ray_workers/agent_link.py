"""A training worker's way to the agent of its node, which may be another process, or another actor, than it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError

from ray_workers.actor_errors import is_gone

__all__ = ["AgentLink"]


class AgentLink:
    """Ray restarts an agent in place; one that it has given up the driver starts anew under the same name.

    Args:
        find: looks the name up; `ValueError` while nobody has it.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find
        self._actor = find()

    @property
    def actor(self) -> Any:
        """Whom to call now."""
        return self._actor

    def failed(self, error: Exception) -> None:
        """A call ended so. If the agent is gone, the next call goes to whoever has its name by now."""
        if is_gone(error):
            with contextlib.suppress(ValueError, RayError):
                self._actor = self._find()
