"""The save pipeline of a Ray Train worker: its node's agent, asked without ever being waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util import list_named_actors

from ray_workers.actor_errors import in_short, is_gone
from ray_workers.agent_link import AgentLink
from ray_workers.checkpoint_actor import newest_name
from ray_workers.messages import (
    DriverNews,
    SaveId,
    StagedShard,
    StopRequest,
    VersionOutcome,
)
from ray_workers.ray_cluster import NAMESPACE

__all__ = ["RayPipeline", "coordinator_finder"]

_RESUBMITS = 60
_RESUBMIT_PAUSE_S = 1.0
_STOP_POLL_S = 0.25
_STOP_TIMEOUT_S = 10.0
_ALLOCATE_TIMEOUT_S = 60.0
_RESERVED_A_SECOND = 100e6
"""Bytes: far below what a machine clears of memory, of which all ranks of a node want theirs at once."""
_AT_WORK_TIMEOUT_S = 120.0
"""Above what the agent waits for the checkpoint actor, and for its successor."""


def coordinator_finder(run_id: str, attempt: int) -> Callable[[], Any | None]:
    """Finds the checkpoint actor of the attempt that began with fence `attempt`; None: there is none, or Ray cannot say."""

    def find() -> Any | None:
        try:
            known = list_named_actors(all_namespaces=True)
            ours = [one["name"] for one in known if one["namespace"] == NAMESPACE]
            name = newest_name(run_id, attempt, ours)
            return None if name is None else ray.get_actor(name, namespace=NAMESPACE)
        except (RayError, ValueError):
            return None

    return find


class RayPipeline:
    """Args: the agent, this worker's rank, and what finds the coordinator, whom only a save that no agent answers is told to."""

    def __init__(
        self, link: AgentLink, rank: int, find_coordinator: Callable[[], Any | None]
    ) -> None:
        self._link = link
        self._rank = rank
        self._find_coordinator = find_coordinator
        self._listener: _NewsListener | None = None

    def allocate(self, rank: int, *, count: int, size: int) -> list[str]:
        timeout_s = _ALLOCATE_TIMEOUT_S + count * size / _RESERVED_A_SECOND
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                paths: list[str] = ray.get(
                    self._link.actor.allocate.remote(rank, count, size),
                    timeout=timeout_s,
                )
            except (RayTaskError, GetTimeoutError):
                raise
            except RayError as error:
                if time.monotonic() > deadline:
                    raise
                self._link.failed(error)
                time.sleep(_RESUBMIT_PAUSE_S)  # it is being restarted
            else:
                return paths

    def submit(self, staged: StagedShard) -> _AgentPending:
        return _AgentPending(self._link, staged, self._find_coordinator)

    def decline(self, save: SaveId, rank: int, reason: str) -> None:
        self._link.actor.decline.remote(save, f"rank {rank}: {reason}")

    def at_work(self) -> bool:
        try:
            answer: bool = ray.get(self._link.actor.at_work.remote(), timeout=_AT_WORK_TIMEOUT_S)
        except GetTimeoutError:
            return False
        except RayError as error:
            self._link.failed(error)
            return True  # it is being restarted; the save asks again by itself, and not for ever
        return answer

    def stop_request(self) -> StopRequest | None:
        return self.news().stop

    def news(self) -> DriverNews:
        if self._listener is None:  # rank 0 alone asks
            self._listener = _NewsListener(self._link)
        return self._listener.heard()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._link.actor.release.remote(self._rank)


class _NewsListener:
    """Asks the agent again and again, on a thread of its own: with slow steps an answer must be there when one ends."""

    def __init__(self, link: AgentLink) -> None:
        self._link = link
        self._request: StopRequest | None = None
        self._heard_at = 0.0
        self._last = DriverNews()
        self._closed = threading.Event()
        threading.Thread(target=self._listen, name="pawl-news-listener", daemon=True).start()

    def heard(self) -> DriverNews:
        request = self._request
        if request is not None:
            request = request.after(time.monotonic() - self._heard_at)
        return replace(self._last, stop=request)

    def close(self) -> None:
        self._closed.set()

    def _listen(self) -> None:
        while not self._closed.wait(_STOP_POLL_S):
            try:
                news: DriverNews = ray.get(self._link.actor.news.remote(), timeout=_STOP_TIMEOUT_S)
            except RayError as error:
                self._link.failed(error)
                continue  # the agent is busy or being restarted; the next answer will tell
            self._last = news
            if news.stop is not None:
                self._heard_at = time.monotonic()
                self._request = news.stop


class _AgentPending:
    """A save at the node agent. The buffer still holds the bytes, so a restarted agent is simply asked again.

    When none comes back, or it fails, the coordinator is asked to give the version up: the failure budget is kept there.
    """

    def __init__(
        self, link: AgentLink, staged: StagedShard, find_coordinator: Callable[[], Any | None]
    ) -> None:
        self._link = link
        self._staged = staged
        self._find_coordinator = find_coordinator
        self._tries = 0
        self._not_before = 0.0
        self._given_up: str | None = None
        """Why; from then on the answer is the coordinator's."""
        self._ref: Any | None = link.actor.save.remote(staged)

    def poll(self) -> VersionOutcome | None:
        return self.wait(0)

    def wait(self, timeout_s: float) -> VersionOutcome | None:
        deadline = time.monotonic() + timeout_s
        while True:
            ref: Any = self._ref or self._resubmitted()
            if ref is None:
                if time.monotonic() >= deadline:
                    return None
                time.sleep(min(_RESUBMIT_PAUSE_S, max(0.0, deadline - time.monotonic())))
                continue
            left = max(0.0, deadline - time.monotonic())
            try:
                answer: VersionOutcome = ray.get(ref, timeout=left)
            except GetTimeoutError:
                return None
            except RayError as error:
                outcome = self._failed(error)
                if outcome is not None:
                    return outcome
            else:
                return answer

    def _failed(self, error: RayError) -> VersionOutcome | None:
        """Ask again later, or have the version given up. An outcome: of that nobody can be told either."""
        if self._given_up is None and not isinstance(error, RayTaskError) and self._ask_again():
            self._link.failed(error)
            return None
        if self._given_up is None and self._give_up(error):
            return None
        step = self._staged.progress.step
        return VersionOutcome(step=step, number=None, reason=self._given_up)

    def _ask_again(self) -> bool:
        """Ask later: a restarting agent refuses calls at once. False when it has been given time enough."""
        self._tries += 1
        self._ref, self._not_before = None, time.monotonic() + _RESUBMIT_PAUSE_S
        return self._tries <= _RESUBMITS

    def _give_up(self, error: RayError) -> bool:
        """Whether there is a coordinator to hear of it. It answers with what the version became if it has one already."""
        what = "does not come back" if is_gone(error) else "does not answer"
        if isinstance(error, RayTaskError):
            what = "failed"
        self._given_up = f"rank {self._staged.rank}: the node agent {what}: {in_short(error)}"
        coordinator = self._find_coordinator()
        if coordinator is None:
            return False
        self._ref = coordinator.give_up.remote(self._staged.save, self._given_up)
        return True

    def _resubmitted(self) -> Any | None:
        if time.monotonic() >= self._not_before:
            self._ref = self._link.actor.save.remote(self._staged)
        return self._ref
