"""The checkpoint actor and its successors: each under a fence of its own, one at a time, until the run is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

from ray_workers.actor_errors import is_gone
from ray_workers.checkpoint_actor import CheckpointActor, actor_name
from ray_workers.messages import PawlEvent
from ray_workers.store.attempts import resumed_from, start_incarnation
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import ConflictError
from ray_workers.store.log import RunLog
from ray_workers.store.manifest import VersionRef
from ray_workers.store.opening import StorageTarget
from ray_workers.version_assembly import AttemptIdentity

__all__ = ["Incarnations"]

_LOG_PATIENCE_S = 15.0
"""The supervisor's other duties wait meanwhile; at its next look around the store is asked again."""
_FENCE_CHECK_S = 5.0


class Incarnations:
    """Args: of the actor; `on_event` hears of each restart, and when the run is lost; `incarnation` is the first one's.

    `over` says whether the attempt was left: then no successor is started, and nobody is told that the run is lost. The
    store may answer only after that, when any call of Ray's would start a new Ray.
    """

    def __init__(
        self,
        target: StorageTarget,
        attempt: AttemptIdentity,
        failure_budget: int,
        on_event: Callable[[PawlEvent], None],
        incarnation: int = 0,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._target = target
        self._failure_budget = failure_budget
        self._on_event = on_event
        self._over = over
        self._log = RunLog(
            target.open().store, attempt.run, by=attempt.by, patience_s=_LOG_PATIENCE_S
        )
        self._count = incarnation
        self._began_with = attempt.fence
        self._dead = False
        """The actor is, and has no successor yet. Until then the open fence may be the successor's, unknown to us."""
        self._fence_checked = time.monotonic()
        self.attempt = attempt
        """With the fence that commits now; a restarted actor has another than the attempt began with."""
        self.actor: Any = None
        self._asked: Any = None
        """What `drain` asked and has no answer to. Asked once: what an answer tells that nobody takes is never told again."""
        self.stop: str | None = None
        """Why the attempt must end, as far as the actor or the log tell: a reason of `messages.StopRequest`."""

    def start(self) -> None:
        self.actor = CheckpointActor.options(  # type: ignore[attr-defined]
            name=actor_name(self.attempt.run_id, self._began_with, self.attempt.fence)
        ).remote(self._target, self.attempt, self._failure_budget)

    def drain(self, timeout_s: float) -> Sequence[PawlEvent]:
        """What happened at the actor since the last call; nothing from one that is busy, dead or replaced just now.

        An answer that is late comes with a later call.

        Raises:
            RayError: it could not answer, and lives.
            PawlError: it is dead, and the store does not let its successor begin; the next call tries again.
        """
        if self._asked is None:
            self._asked = self.actor.drain_events.remote()
        try:
            events, stop = ray.get(self._asked, timeout=timeout_s)
        except GetTimeoutError:
            return ()
        except RayError as error:
            self._asked = None
            if is_gone(error):
                if self.stop is None and not self._over():
                    self._replace(error)
            elif not isinstance(error, ActorUnavailableError):
                raise
            return ()
        self._asked = None
        self.stop = self.stop or stop
        told: Sequence[PawlEvent] = events
        return told

    def settle(self, timeout_s: float) -> None:
        """Let a version whose shards are on their way become one, within so many seconds."""
        try:
            ray.get(self.actor.settle.remote(timeout_s), timeout=timeout_s + 5)
        except RayError:
            return

    def check_fence(self) -> None:
        """Look now and then whether the run is still ours: a training that saves rarely should still learn soon."""
        if self.stop is not None or self._dead:
            return
        if time.monotonic() - self._fence_checked < _FENCE_CHECK_S:
            return
        self._fence_checked = time.monotonic()
        state = self._log.refresh()
        if state.open_fence == self.attempt.fence or self._over():
            return
        by = state.open_attempt
        self.stop = "fence_lost"
        self.actor.stop.remote("fence_lost")
        holder = (
            f"flow run {by.flow_run_id}, fence {by.fence}"
            if by is not None
            else "nobody: it was closed"
        )
        self._tell("fence_lost", f"The run is owned by {holder} now; this attempt ends.")

    def kill(self) -> None:
        if self.actor is not None:
            ray.kill(self.actor)

    def _replace(self, error: Exception) -> None:
        """The next incarnation takes its own fence first: from then on its dead predecessor can commit nothing.

        While the store does not say whether it has that fence, it is asked for again, with the same number.
        """
        self._dead = True
        own, count = self.attempt, self._count + 1
        try:
            fence = start_incarnation(self._log, own.fence, count)
        except ConflictError as conflict:
            if self._over():
                return  # its own end closed it
            self.stop = "fence_lost"
            self._tell("fence_lost", conflict.message, **conflict.details)
            return
        self._count, self._dead = count, False
        newest = self._log.state.attempts.get(own.fence)
        parent = resumed_from(self._log.state, own.fence) or own.parent
        if newest is not None and newest.last_commit is not None:
            version = self._log.state.versions[newest.last_commit]
            parent = VersionRef(run=None, number=version.number, digest=version.manifest)
        self.attempt = replace(own, fence=fence, parent=parent)
        if self._over():
            return
        self.start()
        self._tell(
            "actor_restarted",
            f"The checkpoint actor died ({type(error).__name__}); incarnation {self._count} goes on under fence "
            f"{fence}. The version that was in flight is dropped, committed ones are untouched.",
            fence=fence,
        )

    def _tell(self, kind: str, message: str, **details: Any) -> None:
        self._on_event(PawlEvent(kind=kind, message=message, at=utc_now(), details=details))
