"""The driver's second thread while `fit()` blocks the first: watches the actors, validates, tells people.

It restarts a dead checkpoint actor as the next incarnation (`incarnations`), starts agents on nodes that joined and
tells them who coordinates (`node_agents`), keeps validation going in its own process (`validation_driver`), and passes
on what asks for the end.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from ray_workers.actor_errors import in_short
from ray_workers.coordination import Coordinator
from ray_workers.hang_watch import HangWatch, Hung
from ray_workers.incarnations import Incarnations
from ray_workers.interruption_watch import InterruptionWatch, TimeLimit
from ray_workers.log_collecting import LogCollector
from ray_workers.messages import RESIZE, PawlEvent, StopRequest
from ray_workers.node_agent import AgentConfig
from ray_workers.node_agents import NodeAgents
from ray_workers.policies.failure_rate import FailureRate
from ray_workers.policies.hang import HangRule
from ray_workers.policies.soundness import SoundnessPolicy
from ray_workers.rank_signs import RankPlaces
from ray_workers.ray_cluster import draining_nodes
from ray_workers.room import GrowthPlan, GrowthWatch
from ray_workers.store.clock import utc_now
from ray_workers.store.errors import PawlError
from ray_workers.store.opening import StorageTarget
from ray_workers.validation_driver import ValidationDriver
from ray_workers.version_assembly import AttemptIdentity

__all__ = ["Supervision", "Supervisor"]

_log = logging.getLogger(__name__)
_POLL_S = 0.5
_ANSWER_S = 1.0
"""So long a look around waits for the checkpoint actor: what asks for the end must be noticed while that stands still."""
_CALL_TIMEOUT_S = 30.0
_INTERRUPTED_TIMEOUT_S = 2.0
"""The same for an attempt that must end within a grace period."""
_TELL_AGAIN_S = 60.0
"""A problem that stays is met twice a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    target: StorageTarget
    attempt: AttemptIdentity
    failure_budget: int
    agent: AgentConfig
    policy: SoundnessPolicy
    validation_timeout_s: float
    hot_restore: bool
    """Leave the staging files of an attempt that fails to the next one."""
    on_event: Callable[[PawlEvent], None]
    limit: TimeLimit | None = None
    hang_rule: HangRule | None = None
    growth: GrowthPlan | None = None
    incarnation: int = 0
    rate: Callable[[], FailureRate | None] = lambda: None
    """How often training fails by now; answers at once."""


class Supervisor:
    """Use as a context manager around `fit()`, on the thread that connected to Ray."""

    def __init__(self, task: Supervision) -> None:
        self._task = task
        self._done = threading.Event()
        self._coordinating = Incarnations(
            task.target,
            task.attempt,
            task.failure_budget,
            task.on_event,
            task.incarnation,
            over=self._done.is_set,
        )
        self._agents = NodeAgents(task.attempt.run_id, task.agent)
        self._validation = ValidationDriver(
            task.target,
            task.attempt.run,
            task.policy,
            timeout_s=task.validation_timeout_s,
            on_event=task.on_event,
        )
        self.places = RankPlaces()
        self._watch = InterruptionWatch(
            limit=task.limit, draining=draining_nodes, place=self.places.place
        )
        self._growth = GrowthWatch(task.growth)
        self._grows = True
        self._hang_watch = HangWatch(task.hang_rule, over=self._done.is_set)
        self._hung: Hung | None = None
        self._log_lines = LogCollector(task.on_event)
        self._interruption: StopRequest | None = None
        self._interrupted_at = 0.0
        self._problems: dict[tuple[str, str], float] = {}
        """What was told of, by duty and type, and when."""
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def fence(self) -> int:
        """The fence that commits now; a restarted checkpoint actor has another than the attempt began with."""
        return self._coordinating.attempt.fence

    @property
    def stop_reason(self) -> str | None:
        return self._coordinating.stop

    @property
    def hung(self) -> Hung | None:
        """Ranks that stood still and were killed for it, so that `fit` ends soon."""
        return self._hung

    @property
    def interruption(self) -> StopRequest | None:
        """What asked for the end, with the grace that is left by now; None: nothing did."""
        asked = self._interruption
        return None if asked is None else asked.after(self.seconds_since_interruption)

    @property
    def seconds_since_interruption(self) -> float:
        """Since the end was asked for, if it was."""
        return time.monotonic() - self._interrupted_at

    def interrupt(self, request: StopRequest) -> None:
        """Let the workers end at their next step, with a last version if it fits into the grace. From any thread.

        The first request stands, unless that was for more workers only, or leaves more time than the new one. That is passed
        on here at once: this object's own thread may be waiting for a store.
        """
        if self._takes_over(request):
            self._interrupted_at = time.monotonic()
            self._interruption = request
            self._attach()
            self._wake.set()

    def _takes_over(self, request: StopRequest) -> bool:
        standing = self.interruption
        if request.cause == RESIZE:
            return self._grows and not self._must_end
        # Who ends this process within seconds does not wait for the deadline of a node or of a time limit.
        return standing is None or not self._must_end or request.grace_s < standing.grace_s

    def fell(self) -> None:
        """The workers ended for reasons of their own: a wish for more of them, if there was one, ended nothing.

        A group that falls frees its places one after the other, which looks like room for a larger one.
        """
        self._grows = False
        if not self._must_end:
            self._interruption = None

    @property
    def _must_end(self) -> bool:
        """Something asked for the end that has no time to wait."""
        return self._interruption is not None and self._interruption.cause != RESIZE

    def __enter__(self) -> Self:
        self._coordinating.start()
        self._watch_agents()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="pawl-supervisor", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self._patience_s)
        self._guarded(self._drain, self._patience_s)
        self._guarded(self._log_lines.finish, self._agents.by_node, self._patience_s)
        # What failed will be tried again, and comes back from this memory; what was ended by a person will not.
        failed = kind is not None and issubclass(kind, Exception) and self.interruption is None
        self._growth.close()
        self._coordinating.kill()
        self._validation.kill()
        self._agents.let_go(keep_staged=self._task.hot_restore and failed)

    def settle(self, timeout_s: float) -> None:
        """After the workers ended: let a version whose shards are on their way become one, and be told of."""
        self._coordinating.settle(timeout_s)

    def finish_validation(self, timeout_s: float) -> None:
        """Wait until no version waits for a verdict, at most `timeout_s` seconds."""
        self._validation.want()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._validation.over:
            time.sleep(0.05)  # the supervisor thread does the work

    @property
    def _patience_s(self) -> float:
        return _CALL_TIMEOUT_S if self._interruption is None else _INTERRUPTED_TIMEOUT_S

    def _run(self) -> None:
        told: StopRequest | None = None
        while not self._done.is_set():
            self._wake.wait(_POLL_S)
            self._wake.clear()
            asked = self._interruption
            if asked is not None and asked is not told:
                told = asked
                self._guarded(self._tell_interruption, asked)
            self._look_around()

    def _look_around(self) -> None:
        duties: tuple[tuple[Callable[..., None], tuple[Any, ...]], ...] = (
            (self._drain, (_ANSWER_S,)),
            (self._watch_agents, ()),
            (self._watch_for_interruptions, ()),
            (self._watch_for_hung_ranks, ()),
            (self._log_lines.collect, (self._agents.by_node,)),
            (self._coordinating.check_fence, ()),
            (self._validation.drive, ()),
        )
        for duty, arguments in duties:
            # The one before may have waited for the store until Ray was left, and whoever calls Ray then starts a new one.
            if not self._done.is_set():
                self._guarded(duty, *arguments)

    def _guarded(self, duty: Callable[..., None], *arguments: Any) -> None:
        """One duty that fails keeps no other from its turn: without this thread no attempt ends in order."""
        try:
            duty(*arguments)
        except Exception as error:  # noqa: BLE001 - the outermost frame of each duty; Ray, torch and people's code raise all types
            self._met(duty.__qualname__, error)

    def _met(self, duty: str, error: Exception) -> None:
        now, what = time.monotonic(), (duty, type(error).__name__)
        if now - self._problems.get(what, float("-inf")) < _TELL_AGAIN_S:
            return
        self._problems[what] = now
        text = error.message if isinstance(error, PawlError) else in_short(error)
        try:
            self._tell("supervisor", f"The supervisor met a problem and goes on: {text}")
        except Exception:  # noqa: BLE001 - as above
            _log.exception("What the supervisor met could not be told")

    def _drain(self, patience_s: float) -> None:
        before = self.fence
        events = self._coordinating.drain(patience_s)
        if self.fence != before:
            self._validation.want()  # the dead one may have committed, and told nobody
        for event in events:
            self._task.on_event(event)
            if event.kind == "committed":
                self._validation.want()
                self._watch.committed(event)

    def _watch_agents(self) -> None:
        names = self._agents.watch()
        self._attach()
        self.places.look(self._agents.by_node, names)

    def _attach(self) -> None:
        reason = self._coordinating.stop
        stop = StopRequest(reason=reason) if reason is not None else self.interruption
        self._agents.attach(
            Coordinator(
                actor=self._coordinating.actor,
                fence=self.fence,
                stop=stop,
                validating=not self._validation.over,
                rate=self._task.rate(),
            )
        )

    def _watch_for_interruptions(self) -> None:
        asked = None if self._must_end else self._watch.asked(self._agents.by_node)
        if asked is None and self._interruption is None and self._hung is None:
            asked = self._growth.asked(arrived=self.places.arrived)
        if asked is not None:
            self.interrupt(asked)

    def _watch_for_hung_ranks(self) -> None:
        if not self._must_end and self._hung is None:
            self._hung = self._hang_watch.look(self._agents.by_node)
            if self._hang_watch.step_s is not None:
                self._watch.steps_take(self._hang_watch.step_s)
            if self._hung is not None:
                self._task.on_event(self._hung.event())

    def _tell_interruption(self, asked: StopRequest) -> None:
        if asked.cause == RESIZE:
            text = f"There is room for more workers ({asked.place}): they save at their next step and begin again."
            self._tell("resizing", text)
            return
        self._tell(
            "interrupted",
            f"{asked.told}: the workers end at their next step. They save once more if that can be done in "
            f"{asked.grace_s:.0f} s.",
            cause=asked.cause,
            grace_s=asked.grace_s,
        )

    def _tell(self, kind: str, message: str, **details: Any) -> None:
        self._task.on_event(PawlEvent(kind=kind, message=message, at=utc_now(), details=details))
