"""The save pipeline of a Ray Train worker: its node's agent, asked without ever being waited for."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from ray_workers.messages import SaveId, StagedShard, StopRequest, VersionOutcome

__all__ = ["RayPipeline"]

_RESUBMITS = 60
_RESUBMIT_PAUSE_S = 1.0
_STOP_POLL_S = 0.25
_STOP_TIMEOUT_S = 10.0
_ALLOCATE_TIMEOUT_S = 60.0
_AT_WORK_TIMEOUT_S = 120.0
"""Above what the agent waits for the checkpoint actor, and for its successor."""


class RayPipeline:
    def __init__(self, agent: Any, rank: int) -> None:
        self._agent = agent
        self._rank = rank
        self._listener: _StopListener | None = None

    def allocate(self, rank: int, *, count: int, size: int) -> list[str]:
        deadline = time.monotonic() + _ALLOCATE_TIMEOUT_S
        while True:
            try:
                paths: list[str] = ray.get(
                    self._agent.allocate.remote(rank, count, size), timeout=_ALLOCATE_TIMEOUT_S
                )
            except RayActorError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RESUBMIT_PAUSE_S)  # it is being restarted
            else:
                return paths

    def submit(self, staged: StagedShard) -> _AgentPending:
        return _AgentPending(self._agent, staged)

    def decline(self, save: SaveId, rank: int, reason: str) -> None:
        self._agent.decline.remote(save, f"rank {rank}: {reason}")

    def at_work(self) -> bool:
        try:
            answer: bool = ray.get(self._agent.at_work.remote(), timeout=_AT_WORK_TIMEOUT_S)
        except GetTimeoutError:
            return False
        except RayActorError:
            return True  # it is being restarted; the save asks again by itself, and not for ever
        return answer

    def stop_request(self) -> StopRequest | None:
        if self._listener is None:  # rank 0 alone asks
            self._listener = _StopListener(self._agent)
        return self._listener.heard()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._agent.release.remote(self._rank)


class _StopListener:
    """Asks the agent again and again, on a thread of its own: with slow steps an answer must be there when one ends."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._request: StopRequest | None = None
        self._heard_at = 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._listen, name="pawl-stop-listener", daemon=True).start()

    def heard(self) -> StopRequest | None:
        request = self._request
        return None if request is None else request.after(time.monotonic() - self._heard_at)

    def close(self) -> None:
        self._closed.set()

    def _listen(self) -> None:
        while not self._closed.wait(_STOP_POLL_S):
            try:
                request = ray.get(self._agent.stop_request.remote(), timeout=_STOP_TIMEOUT_S)
            except RayError:
                continue  # the agent is busy or being restarted; the next answer will tell
            if request is not None:
                self._heard_at = time.monotonic()
                self._request = request


class _AgentPending:
    """A save at the node agent. The buffer still holds the bytes, so a restarted agent is simply asked again."""

    def __init__(self, agent: Any, staged: StagedShard) -> None:
        self._agent = agent
        self._staged = staged
        self._tries = 0
        self._not_before = 0.0
        self._ref: Any | None = agent.save.remote(staged)

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
            except RayActorError as error:
                if not self._ask_again():
                    reason = f"the node agent does not come back: {error}"
                    return VersionOutcome(
                        step=self._staged.progress.step, number=None, reason=reason
                    )
            else:
                return answer

    def _ask_again(self) -> bool:
        """Ask later: a restarting agent refuses calls at once. False when it has been given time enough."""
        self._tries += 1
        self._ref, self._not_before = None, time.monotonic() + _RESUBMIT_PAUSE_S
        return self._tries <= _RESUBMITS

    def _resubmitted(self) -> Any | None:
        if time.monotonic() >= self._not_before:
            self._ref = self._agent.save.remote(self._staged)
        return self._ref
