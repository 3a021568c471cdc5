"""A rank's heart, told to its node's agent by a thread of its own; the same thread brings the stacks when it is asked to."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import ray
from ray.exceptions import RayError

from ray_workers.agent_link import AgentLink
from ray_workers.heart import Heart
from ray_workers.stacks import all_stacks

__all__ = ["BEAT_S", "Heartbeat"]

BEAT_S = 2.0
_ANSWER_S = 10.0


class Heartbeat:
    """Use as a context manager around the training loop; `told`: whether anybody wants to hear it."""

    def __init__(self, heart: Heart, link: AgentLink, rank: int, *, told: bool) -> None:
        self._told = told
        self._heart = heart
        self._link = link
        self._rank = rank
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pawl-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        if self._told:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(BEAT_S):
            agent = self._link.actor
            try:
                wanted = ray.get(
                    agent.beat.remote(self._heart.pulse(self._rank)), timeout=_ANSWER_S
                )
            except RayError as error:
                self._link.failed(error)
                continue  # the agent is being restarted; the next beat will arrive
            if wanted:
                agent.put_stacks.remote(self._rank, all_stacks())
